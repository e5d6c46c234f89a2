"""What the writers of tar files read: which products stand where, and what is known of their pictures.

Enters: the chunks' good pictures, and the products' digests. Leaves: a folder of plain numpy files that processes map,
so that a million products cost them nothing; it appears as a whole. The pictures of all products stand side by side,
by product and number.
"""

import os
import secrets
import shutil
from functools import cached_property
from pathlib import Path

import numpy as np

from phi3v_dist.catalog.likeness import FINGERPRINT_BYTES
from phi3v_dist.catalog.picture_checks import GoodPicture
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.mapped_arrays import arrays_in, new_file, open_file
from phi3v_dist.shards.checking import Chunks
from phi3v_dist.shards.manifest import SPLITS
from phi3v_dist.shards.placing import Earlier, place

_OF_A_PICTURE = {"number": "i1", "num_bytes": "i8", "suffix": "S4", "width": "i4", "height": "i4", "save_anew": "?"}
_BYTES = {"xxh3": 16, "fingerprint": FINGERPRINT_BYTES}


def write_placed(folder: Path, chunks: Chunks, digests: np.ndarray, earlier: Earlier, catalog: CatalogOptions) -> None:
    """Place all products; nothing to do when somebody has."""
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    temporary.mkdir()
    try:
        _gather(temporary, chunks, earlier, bytes_too=catalog.check_pictures)
        own = Placed(temporary)
        fingerprints = own.all_fingerprints if catalog.check_pictures else None
        placement = place(digests, own.owner, fingerprints, earlier, catalog.heldout_share, arrays_in(temporary))
        for split in SPLITS:
            np.save(temporary / f"order-{split}.npy", placement.order[split])
        np.save(temporary / "linked.npy", placement.linked)
        np.save(temporary / "largest-group.npy", placement.largest_group)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _gather(folder: Path, chunks: Chunks, earlier: Earlier, *, bytes_too: bool) -> None:
    """Lay the chunks' columns end to end; behind the fingerprints of earlier deliveries.

    ``bytes_too``: hashes and fingerprints, which pictures that weren't checked don't have.
    """
    counts = [chunks.pictures(number).num_rows for number in range(len(chunks))]
    ahead, total = len(earlier.owners), sum(counts)
    kinds = {"owner": "i8"} | _OF_A_PICTURE
    lengths = dict.fromkeys(kinds, total)
    lengths |= {"xxh3": total, "fingerprint": ahead + total} if bytes_too else {"xxh3": 0, "fingerprint": ahead}
    columns = {name: new_file(folder / f"{name}.npy", lengths[name], kind) for name, kind in kinds.items()}
    columns |= {name: new_file(folder / f"{name}.npy", (lengths[name], size), "u1") for name, size in _BYTES.items()}
    start = 0
    for block in earlier.fingerprints:
        columns["fingerprint"][start : start + len(block)] = block
        start += len(block)
    start = 0
    for number, count in enumerate(counts):
        rows, part = chunks.pictures(number), slice(start, start + count)
        columns["owner"][part] = rows["product"].to_numpy()
        for name in _OF_A_PICTURE:
            columns[name][part] = rows[name].to_numpy()
        for name, size in _BYTES.items() if bytes_too else ():
            content = b"".join(rows[name].to_pylist())
            place_of = slice(start + ahead, start + ahead + count) if name == "fingerprint" else part
            columns[name][place_of] = np.frombuffer(content, np.uint8).reshape(count, size)
        start += count
    for column in columns.values():
        column.flush()


class Placed:
    """The folder, read back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def owner(self) -> np.ndarray:
        """Product of each picture, int64 [pictures], rising."""
        return self._column("owner")

    @cached_property
    def all_fingerprints(self) -> np.ndarray:
        """Of earlier deliveries' pictures and then of these, uint8 [pictures, 768]."""
        return self._column("fingerprint")

    @cached_property
    def order(self) -> dict[str, np.ndarray]:
        """Product numbers of each split in their order, int64."""
        return {split: self._column(f"order-{split}") for split in SPLITS}

    @cached_property
    def linked(self) -> np.ndarray:
        """Products that share pictures with both splits, int64."""
        return self._column("linked")

    @cached_property
    def largest_group(self) -> np.ndarray:
        """Products of the largest group that share pictures, int64, rising; at least one where there are products."""
        return self._column("largest-group")

    def pictures_of(self, product: int) -> list[GoodPicture]:
        """Good pictures of a product, in order."""
        start, stop = np.searchsorted(self.owner, [product, product + 1])
        ahead = len(self.all_fingerprints) - len(self.owner)
        checked = len(self._xxh3) > 0
        return [
            GoodPicture(
                **{name: column[picture].item() for name, column in self._of_a_picture.items()},
                suffix=self._suffix[picture].decode(),
                xxh3=self._xxh3[picture].tobytes() if checked else None,
                fingerprint=self.all_fingerprints[ahead + picture].tobytes() if checked else None,
            )
            for picture in range(start, stop)
        ]

    @cached_property
    def _of_a_picture(self) -> dict[str, np.ndarray]:
        return {name: self._column(name) for name in _OF_A_PICTURE if name != "suffix"}

    @cached_property
    def _suffix(self) -> np.ndarray:
        return self._column("suffix")

    @cached_property
    def _xxh3(self) -> np.ndarray:
        return self._column("xxh3")

    def _column(self, name: str) -> np.ndarray:
        return open_file(self._folder / f"{name}.npy")
