"""What a delivery of products adds to a shard folder: the first makes it, later ones never touch what is there.

Enters: all tar files of a delivery, finished in the staging folder, and what earlier deliveries hold. Leaves: index,
rejects, pictures and manifest over all. The first delivery appears by one rename. Of a later one the tar files move in
first, then the index under a new name, and last the manifest, in one rename: until then readers see what was there.
Files of an index that is no longer the manifest's stay: a training that began with it may still read it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phi3v_dist.catalog.checks import reject
from phi3v_dist.catalog.leaks import HELDOUT, TRAIN
from phi3v_dist.catalog.likeness import FINGERPRINT_BYTES
from phi3v_dist.catalog.product_file import ProductFile
from phi3v_dist.catalog.rejects import SCHEMA as REJECTS_SCHEMA
from phi3v_dist.catalog.rejects import count_reasons, rejects_table
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import ShardError
from phi3v_dist.files import atomic_path, locked, write_json
from phi3v_dist.shards.checking import Chunks
from phi3v_dist.shards.index import SHARD_SCHEMA, check_content, check_file, open_index, write_index
from phi3v_dist.shards.manifest import MANIFEST_NAME, SPLITS, build_manifest, file_name, read_manifest
from phi3v_dist.shards.placed import Placed
from phi3v_dist.shards.placing import Earlier, Shelf
from phi3v_dist.shards.staging import Staging

LINKED = "picture: shared with both splits"
_PICTURES_SCHEMA = pa.schema(
    [("sample", pa.int64()), ("xxh3", pa.binary(16)), ("fingerprint", pa.binary(FINGERPRINT_BYTES))]
)

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Delivery:
    """``earlier``: what placing must know; ``manifest`` of the folder as it is, None for the first delivery."""

    earlier: Earlier
    folder: Path | None = None
    manifest: dict[str, Any] | None = None

    def complete(
        self, staging: Staging, shelves: Sequence[Shelf], products: ProductFile, described: dict[str, Any],
        catalog: CatalogOptions,
    ) -> bool:  # fmt: skip
        """Write what lies over all tar files, and give all files their names; False when another process did."""
        number = len(self.manifest["deliveries"]) if self.manifest else 0
        facts = [staging.facts(shelf.tar) for shelf in shelves]
        for told in facts:
            moved = self.folder and not (staging.shards / told["path"]).exists()  # by a command that was killed then
            check_file(self.folder if self.folder and moved else staging.shards, told)
        names = {kind: file_name(kind, number) for kind in ("index", "rejects", "pictures")}
        placed = Placed(staging.placed)
        there = (rows.drop_columns("sample").cast(SHARD_SCHEMA) for rows in self._rows("index"))
        write_index(staging.shards / names["index"], chain(there, (staging.rows(shelf.tar) for shelf in shelves)))
        rejected = _rejects(staging, products, placed, catalog)
        rejects = pa.concat_tables([*self._rows("rejects"), rejected])
        _write_parquet(staging.shards / names["rejects"], REJECTS_SCHEMA, [rejects])
        pictures = _picture_rows(placed, shelves, len(self.earlier.sides))
        _write_parquet(staging.shards / names["pictures"], _PICTURES_SCHEMA, chain(self._rows("pictures"), pictures))
        manifest = build_manifest(
            staging.shards, names, facts, count_reasons(rejects), described | _told(products, placed, rejected),
            before=self.manifest,
        )  # fmt: skip
        write_json(staging.shards / MANIFEST_NAME, manifest)
        if self.manifest is None:
            return staging.give_name()
        with _alone_beside(staging.final):
            if read_manifest(staging.final) != self.manifest:
                raise ShardError("another delivery was added to it meanwhile", where=str(staging.final),
                                 mend="Start again: this one has to be placed beside that one's products.")  # fmt: skip
            staging.move_in([*(shelf.tar for shelf in shelves), *names.values(), MANIFEST_NAME])
        staging.clear()
        return True

    def _rows(self, kind: str) -> Iterator[pa.Table]:
        """Rows of a table that the folder has."""
        return _some_rows(self.folder / self.manifest[kind]["path"]) if self.manifest and self.folder else iter(())


def no_delivery() -> Delivery:
    """Before the first one."""
    return Delivery(Earlier())


def open_delivery(folder: Path) -> Delivery:
    """What a finished folder holds. Raises ``ShardError`` where its files aren't those of its manifest."""
    manifest = read_manifest(folder)
    for shard in manifest["shards"]:
        check_file(folder, shard)
    check_content(folder, manifest["rejects"])
    pictures = check_content(folder, manifest["pictures"])
    index = open_index(folder, manifest)
    numbers: dict[str, list[int]] = {split: [] for split in SPLITS}
    for shard in manifest["shards"]:
        numbers[shard["split"]].append(int(Path(shard["path"]).stem[-6:]))
    earlier = Earlier(
        codes=index.column("product_code").tolist(),
        sides=np.where(index.column("split") == "heldout", HELDOUT, TRAIN).astype(np.int8),
        owners=pq.read_table(pictures, columns=["sample"])["sample"].to_numpy(),
        fingerprints=map(_fingerprints, _some_rows(pictures)),
        currency=max(Counter(index.column("currency")).items(), key=lambda pair: (pair[1], pair[0]), default=("",))[0],
        num_tars={split: max(numbers[split], default=-1) + 1 for split in SPLITS},
    )
    return Delivery(earlier, folder, manifest)


def _some_rows(path: Path) -> Iterator[pa.Table]:
    """The rows of a Parquet file, so many at a time that little memory is needed."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS_AT_A_TIME, use_threads=False):
            yield pa.Table.from_batches([batch])


def _fingerprints(rows: pa.Table) -> np.ndarray:
    content = b"".join(rows["fingerprint"].to_pylist())
    return np.frombuffer(content, np.uint8).reshape(-1, FINGERPRINT_BYTES)


def _rejects(staging: Staging, products: ProductFile, placed: Placed, catalog: CatalogOptions) -> pa.Table:
    """Rejects of this delivery by row."""
    chunks = Chunks(staging.checked, len(products))
    linked = [
        reject(catalog, product.row, product.code, LINKED, str(product.pictures[0]))
        for product in products.products(placed.linked)
    ]
    own = [products.rejects(), *map(chunks.rejects, range(len(chunks))), rejects_table(linked)]
    return pa.concat_tables(own).sort_by([("file", "ascending"), ("row", "ascending")])


@contextmanager
def _alone_beside(folder: Path) -> Iterator[None]:
    """Hold a lock beside the folder, where the file system knows locks."""
    path = folder.with_name(f".{folder.name}.lock")
    with locked(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _told(products: ProductFile, placed: Placed, rejected: pa.Table) -> dict[str, Any]:
    """What the manifest tells of a delivery: what became of its table's rows, and its largest group of products."""
    codes = [product.code for product in products.products(placed.largest_group[:1])]
    return {
        "rows": products.num_rows,
        "urls": products.num_urls,
        "samples": {split: len(order) for split, order in placed.order.items()},
        "rejected": count_reasons(rejected),
        "largest_group": {"products": len(placed.largest_group), "first_code": codes[0] if codes else ""},
    }


def _picture_rows(placed: Placed, shelves: Sequence[Shelf], num_samples: int) -> Iterator[pa.Table]:
    """What later deliveries must know of each sample's pictures; of those that weren't checked there is nothing."""
    sample = num_samples
    for shelf in shelves:
        rows = []
        for product in placed.order[shelf.split][shelf.start : shelf.stop]:
            told = [(sample, picture.xxh3, picture.fingerprint) for picture in placed.pictures_of(product)]
            rows += [row for row in told if None not in row]
            sample += 1
        columns = zip(*rows, strict=True) if rows else ((), (), ())
        yield pa.table([list(column) for column in columns], schema=_PICTURES_SCHEMA)


def _write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for rows in tables:
            writer.write_table(rows)
