"""Make shards: checked products become WebDataset tar files with an index, a list of rejects and a manifest.

Enters: a product table (``CatalogOptions``) and where to write (``ShardOptions``). Leaves: the folder that
``shards/manifest.py`` draws. Checking a picture costs 15 times as much as writing it, so processes check, in the final
order, while this one writes; they read finished tar files back for the index. Nothing depends on which process was
faster: the same input gives the same bytes with any number of workers.

Within a split the products lie in the order of their codes' SHA-256. A product table is usually sorted by category,
and a window of neighbouring shards is what training shuffles: it has to be a fair draw. A hash needs no seed, and a
product keeps its place among the others when products are added.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from phi3v_dist.catalog.checks import Product, Reject, check_rows
from phi3v_dist.catalog.split import split_of
from phi3v_dist.catalog.tables import read_table
from phi3v_dist.config.options import CatalogOptions, ShardOptions
from phi3v_dist.console import progress
from phi3v_dist.errors import CatalogError, ShardError
from phi3v_dist.files import atomic_path, write_json
from phi3v_dist.images import FORMATS
from phi3v_dist.shards.index import check_file, write_index
from phi3v_dist.shards.manifest import MANIFEST_NAME, SPLITS, build_manifest, describe_input, read_manifest
from phi3v_dist.shards.rejects import count_reasons, write_rejects
from phi3v_dist.shards.staging import OTHER_FOLDER, staging_folder
from phi3v_dist.shards.workers import FinishedShard, Workers, worker_pool

# A tar header has room for 100 bytes of name; longer ones need an extra header that some readers don't know.
_MAX_KEY_BYTES = 80
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg"}  # MPO: a JPEG with more pictures behind it


@dataclass(frozen=True)
class ShardSummary:
    """What a shard folder holds. ``made_now`` is False when it stood already, made from the same input."""

    folder: Path
    counts: dict[str, int]  # samples by split
    num_rows: int  # of the product table
    reasons: dict[str, int]  # rejects by reason, most frequent first
    num_shards: int
    num_bytes: int
    made_now: bool

    @property
    def num_rejects(self) -> int:
        """Rejected products, over all reasons."""
        return sum(self.reasons.values())

    @property
    def reject_share(self) -> float:
        """Rejected share of the table's rows."""
        return self.num_rejects / max(1, self.num_rows)


def make_shards(catalog: CatalogOptions, shards: ShardOptions) -> ShardSummary:
    """Write the shard folder; at once its summary when it stands already and table and options are the same.

    Raises ``CatalogError`` for a table or picture that can't be used at all and ``ShardError`` for a folder that holds
    something else. Wrong products are no error: they land in ``rejects.parquet``.
    """
    folder = Path(shards.folder).absolute()
    if not Path(catalog.table).is_file():
        read_table(catalog)  # raises, and names the tables nearby
    described = describe_input(catalog, shards)
    if (folder / MANIFEST_NAME).exists():
        return _standing(folder, described)
    rows = read_table(catalog)
    if not rows:
        raise CatalogError("no row below its header", where=catalog.table, mend="Export the table again.")
    products, rejects = check_rows(rows, catalog)
    assert len(products) + len(rejects) == len(rows), "a row was lost between table and checks"
    with staging_folder(folder) as staging, worker_pool(shards.workers) as workers:
        ordered = shelf_order(products, catalog.heldout_share)
        verdicts = progress(workers.check_pictures(ordered, catalog), "checking and writing", len(ordered))
        finished = _write_all(staging, _accepted(verdicts, rejects), shards.samples_per_shard, workers)
        write_index(staging, [shard.rows for shard in finished])
        write_rejects(staging, rejects)
        described |= {"rows": len(rows)}
        manifest = build_manifest(staging, [shard.facts for shard in finished], count_reasons(rejects), described)
        write_json(staging / MANIFEST_NAME, manifest)
    return _summary(folder, manifest, made_now=True)


def shelf_order(products: Iterable[Product], heldout_share: float) -> list[tuple[str, Product]]:
    """(split, product): training products first, each split in the order of its codes' SHA-256."""
    placed = [(split_of(product.code, heldout_share), product) for product in products]
    return sorted(placed, key=lambda pair: (SPLITS.index(pair[0]), _digest(pair[1].code)))


def key_of(code: str) -> str:
    """The product's name in a tar file: different for different codes, ASCII, without dots (a key ends at a dot)."""
    key = quote(code, safe="").replace(".", "%2E")
    return key if len(key) <= _MAX_KEY_BYTES else f"{key[:40]}-{_digest(code)[:32]}"


def _summary(folder: Path, manifest: dict[str, Any], *, made_now: bool) -> ShardSummary:
    return ShardSummary(
        folder=folder,
        counts={split: manifest["counts"][split] for split in SPLITS},
        num_rows=manifest["input"]["rows"],
        reasons=dict(sorted(manifest["rejects"]["by_reason"].items(), key=lambda pair: (-pair[1], pair[0]))),
        num_shards=len(manifest["shards"]),
        num_bytes=sum(shard["bytes"] for shard in manifest["shards"]),
        made_now=made_now,
    )


def _standing(folder: Path, described: dict[str, Any]) -> ShardSummary:
    """The summary of a finished folder; ``ShardError`` when it is incomplete or was made from another input."""
    manifest = read_manifest(folder)
    made_from = manifest["input"]
    if made_from["fingerprint"] != described["fingerprint"]:
        changed = [name for name, value in described["options"].items() if made_from["options"].get(name) != value]
        if made_from["table_sha256"] != described["table_sha256"]:
            changed.insert(0, "the product table")
        raise ShardError(
            f"these shards were made from another input, changed: {', '.join(changed) or 'the schema'}",
            where=str(folder),
            mend=OTHER_FOLDER,
        )
    for told in [*manifest["shards"], manifest["index"], manifest["rejects"]]:
        check_file(folder, told)
    return _summary(folder, manifest, made_now=False)


def _write_all(
    staging: Path, accepted: Iterator[tuple[str, Product]], samples_per_shard: int, workers: Workers
) -> list[FinishedShard]:
    """Write every tar file of both splits, reading each back while the next is written."""
    pending = []
    for split, group in groupby(accepted, key=lambda pair: pair[0]):
        for number, batch in enumerate(_batches((product for _, product in group), samples_per_shard)):
            name = f"{split}/{split}-{number:06d}.tar"
            facts = {"split": split, "samples": len(batch), "members": _write_tar(staging / name, batch)}
            pending.append(workers.finish_shard(staging, name, facts))
    return [future.result() for future in pending]


def _accepted(
    verdicts: Iterable[tuple[str, Product, Reject | None]], rejects: list[Reject]
) -> Iterator[tuple[str, Product]]:
    """Products whose pictures are right; the others' rejects join ``rejects``."""
    for split, product, reject in verdicts:
        if reject is None:
            yield split, product
        else:
            rejects.append(reject)


def _batches(products: Iterator[Product], size: int) -> Iterator[list[Product]]:
    while batch := list(islice(products, size)):
        yield batch


def _write_tar(path: Path, products: list[Product]) -> list[str]:
    """Write a tar file, durable and whole; the kinds of members in it. ``mtime=0``: a clock would change the bytes."""
    from webdataset.writer import TarWriter  # imports torch, which the worker processes don't need

    kinds: set[str] = set()
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as stream,
        TarWriter(stream, encoder=False, mtime=0) as tar,
    ):
        for product in products:
            members = _members(product)
            kinds |= members.keys()
            tar.write({"__key__": key_of(product.code), **members})
    return sorted(kinds)


def _members(product: Product) -> dict[str, bytes]:
    told = {
        "category": product.category,
        "currency": product.currency,
        "price": float(product.price),
        "product_code": product.code,
        "title": product.title,
    }
    picture, suffix = _picture(product)
    return {f"00.{suffix}": picture, "json": json.dumps(told, sort_keys=True, ensure_ascii=False).encode()}


def _picture(product: Product) -> tuple[bytes, str]:
    """A picture's bytes, and its suffix by content: a file name's ending may lie, readers choose a decoder by it."""
    try:
        content = product.image_path.read_bytes()
        kind = Image.open(io.BytesIO(content), formats=FORMATS).format or ""
    except OSError:
        raise CatalogError(
            "the picture could be read a moment ago, now it can't",
            where=f"row {product.row}",
            value=str(product.image_path),
            mend="Leave the pictures alone while shards are made, then start again.",
        ) from None
    return content, _SUFFIXES.get(kind, kind.lower())


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
