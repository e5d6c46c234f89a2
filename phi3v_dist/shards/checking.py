"""The pictures of all products checked, chunk by chunk, by any number of processes.

Enters: a ``ProductFile``. Leaves: per chunk of products one file with what is known of each good picture, and before it
one with the rejects, where there are any; a chunk is finished when the first is there. Checking costs 15 times as much
as writing, so a killed command must not lose it.
"""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa

from phi3v_dist.catalog.checks import Reject
from phi3v_dist.catalog.likeness import FINGERPRINT_BYTES
from phi3v_dist.catalog.picture_checks import GoodPicture, check_pictures
from phi3v_dist.catalog.product_file import ProductFile
from phi3v_dist.catalog.rejects import rejects_table
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.files import atomic_path
from phi3v_dist.shards.staging import names_in

_SCHEMA = pa.schema(
    [
        ("product", pa.int64()),
        ("number", pa.int8()),
        ("num_bytes", pa.int64()),
        ("suffix", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("xxh3", pa.binary(16)),
        ("fingerprint", pa.binary(FINGERPRINT_BYTES)),
        ("save_anew", pa.bool_()),
    ]
)
# Large enough that a million products are a thousand files, small enough that two processes share a small table.
_MOST_IN_CHUNK, _LEAST_IN_CHUNK, _CHUNKS = 1000, 4, 64


class Chunks:
    """The products of a table in runs, by number."""

    def __init__(self, folder: Path, num_products: int) -> None:
        self._folder, self._num_products = folder, num_products
        self.size = min(_MOST_IN_CHUNK, max(_LEAST_IN_CHUNK, num_products // _CHUNKS))

    def __len__(self) -> int:
        return math.ceil(self._num_products / self.size)

    def unfinished(self) -> list[int]:
        """Those that are not finished."""
        there = names_in(self._folder)
        return [number for number in range(len(self)) if self._path(number).name not in there]

    def check(self, number: int, products: ProductFile, options: CatalogOptions) -> None:
        """Check the pictures of a chunk, and write down what is found."""
        rejects: list[Reject] = []
        good: list[tuple[int, GoodPicture]] = []
        chosen = np.arange(number * self.size, min((number + 1) * self.size, self._num_products))
        for product_number, product in zip(chosen, products.products(chosen), strict=True):
            verdict = check_pictures(product, options)
            if isinstance(verdict, Reject):
                rejects.append(verdict)
            else:
                good += [(int(product_number), picture) for picture in verdict]
        columns = [[getattr(picture, name) for _, picture in good] for name in _SCHEMA.names[1:]]
        if rejects:
            _write(self._path(number, ".rejects"), rejects_table(rejects))
        _write(self._path(number), pa.table([[owner for owner, _ in good], *columns], schema=_SCHEMA))

    def pictures(self, number: int) -> pa.Table:
        """Good pictures of a finished chunk, by product and number."""
        return _read(self._path(number))

    def rejects(self, number: int) -> pa.Table:
        """Rejects of a finished chunk."""
        path = self._path(number, ".rejects")
        return _read(path) if path.exists() else rejects_table(())

    def _path(self, number: int, kind: str = "") -> Path:
        return self._folder / f"{number:06d}{kind}.arrow"


def _write(path: Path, rows: pa.Table) -> None:
    with atomic_path(path) as temporary, pa.ipc.new_file(temporary, rows.schema) as writer:
        writer.write_table(rows)


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
