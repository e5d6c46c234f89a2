"""Checked products on disk, so that a million of them never stand in memory.

Enters: a product table, and the codes that earlier deliveries have. Leaves a folder::

    products.arrow     rows that passed the checks of a row, memory-mapped
    bytes.bin          the pictures that the table held itself
    rejects.arrow      the others
    table.npz          which of the rows are products: those of the right currency, the first of each code; last

and, read back, a ``ProductFile``: products by number, in the table's order. Several processes may write it at once:
each file is whole under its name, and alike whoever writes it.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from phi3v_dist.catalog.checks import DUPLICATE, OTHER_CURRENCY, Product, Reject, check_row, reject
from phi3v_dist.catalog.fetched import FetchedPictures
from phi3v_dist.catalog.pictures import Picture, Span, picture_of
from phi3v_dist.catalog.rejects import SCHEMA as REJECTS_SCHEMA
from phi3v_dist.catalog.rejects import rejects_table
from phi3v_dist.catalog.split import code_digest
from phi3v_dist.catalog.tables import RawRow, read_table
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError
from phi3v_dist.files import atomic_path

_TEXTS, _NUMBERS = ("file", "url", "reason"), ("offset", "length")
_PICTURE = pa.struct([*((name, pa.string()) for name in _TEXTS), *((name, pa.int64()) for name in _NUMBERS)])
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("code", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("price", pa.float64()),
        ("currency", pa.string()),
        ("further", pa.string()),  # JSON object
        ("pictures", pa.list_(_PICTURE)),
        ("digest", pa.list_(pa.uint64(), 2)),
    ]
)
_ROWS_AT_A_TIME = 4096
_EARLIER = "an earlier delivery"


def write_product_file(folder: Path, options: CatalogOptions, earlier_codes: Sequence[str] = ()) -> None:
    """Read and check the table. Raises ``CatalogError`` for a table that can't be used at all."""
    root = Path(options.table).parent if options.image_root is None else Path(options.image_root)
    find = partial(picture_of, root=root, fetched=FetchedPictures(options.fetched_folder))
    currencies: dict[str, int] = {}
    with (
        atomic_path(folder / "bytes.bin") as kept_bytes,
        atomic_path(folder / "products.arrow") as products_file,
        atomic_path(folder / "rejects.arrow") as rejects_file,
        open(kept_bytes, "wb") as binary,
        pa.ipc.new_file(products_file, _SCHEMA) as products,
        pa.ipc.new_file(rejects_file, REJECTS_SCHEMA) as rejects,
    ):
        num_rows = 0
        for rows in _batches(read_table(options)):
            num_rows += len(rows)
            for row in rows:
                currencies[row.currency] = currencies.get(row.currency, 0) + 1
            verdicts = [check_row(row, options, find) for row in rows]
            told = [_as_row(verdict, binary) for verdict in verdicts if isinstance(verdict, Product)]
            products.write_batch(pa.RecordBatch.from_pylist(told, schema=_SCHEMA))
            rejects.write_table(rejects_table(verdict for verdict in verdicts if isinstance(verdict, Reject)))
    if not num_rows:
        raise CatalogError("has no row", where=options.table, mend="Export the table again.")
    currency = options.currency or _most_frequent(currencies)
    passed = _mapped(folder / "products.arrow")
    kept = _of_currency(passed, currency) if options.policy.other_currency == "reject" else np.arange(len(passed))
    firsts = _first_of_each_code(passed, kept, earlier_codes)
    with atomic_path(folder / "table.npz") as temporary, open(temporary, "wb") as stream:
        np.savez(stream, num_rows=num_rows, currency=currency, of_currency=kept, firsts=firsts, kept=kept[firsts == -1])


def _batches(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    batch: list[RawRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROWS_AT_A_TIME:
            yield batch
            batch = []
    if batch:
        yield batch


def _as_row(product: Product, binary: BinaryIO) -> dict[str, Any]:
    return {
        "row": product.row,
        "code": product.code,
        "title": product.title,
        "category": product.category,
        "price": product.price,
        "currency": product.currency,
        "further": json.dumps(product.further, sort_keys=True, ensure_ascii=False),
        "pictures": [_as_struct(picture, binary) for picture in product.pictures],
        "digest": code_digest(product.code),
    }


def _as_struct(picture: Picture, binary: BinaryIO) -> dict[str, Any]:
    match picture.source:
        case bytes() as content:
            place = {"offset": binary.tell(), "length": len(content)}
            binary.write(content)
            return place
        case Path() as path:
            return {"file": str(path)}
    return {"url": picture.source, "reason": picture.reason}


def _most_frequent(currencies: dict[str, int]) -> str:
    named = {currency: count for currency, count in currencies.items() if currency}
    return max(named, key=named.__getitem__, default="")


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _of_currency(passed: pa.Table, currency: str) -> np.ndarray:
    if not currency:
        return np.empty(0, np.int64)
    return np.flatnonzero(pa.compute.equal(passed["currency"], currency).to_numpy()).astype(np.int64)


def _first_of_each_code(passed: pa.Table, kept: np.ndarray, earlier_codes: Sequence[str]) -> np.ndarray:
    """For each kept row: -1 for the first of its code, else that one's number; -2 where an earlier delivery has it."""
    digests = _digests(passed)[kept]
    names = digests.view([("high", "u8"), ("low", "u8")]).reshape(-1)
    _, first, which = np.unique(names, return_index=True, return_inverse=True)
    found = np.where(first[which] == np.arange(len(kept)), -1, kept[first[which]] if len(kept) else kept)
    if len(earlier_codes):
        earlier = np.stack([code_digest(code) for code in earlier_codes]).view(names.dtype).reshape(-1)
        found[np.isin(names, earlier)] = -2
    return found


def _digests(passed: pa.Table) -> np.ndarray:
    flat = [chunk.flatten().to_numpy() for chunk in passed["digest"].chunks]
    return np.concatenate([np.empty(0, np.uint64), *flat]).reshape(-1, 2)


class ProductFile:
    """The products of a folder by number, 0 to n-1. A process opens it in a moment and maps what it reads."""

    def __init__(self, folder: Path, options: CatalogOptions) -> None:
        self._folder, self._options = folder, options
        self._table = _mapped(folder / "products.arrow")
        with np.load(folder / "table.npz") as told:
            self.num_rows, self.currency = int(told["num_rows"]), str(told["currency"])
            self._kept, self._of_currency, self._firsts = told["kept"], told["of_currency"], told["firsts"]

    @staticmethod
    def is_there(folder: Path) -> bool:
        """Whether the folder is complete."""
        return (folder / "table.npz").exists()

    def __len__(self) -> int:
        return len(self._kept)

    @cached_property
    def digests(self) -> np.ndarray:
        """``code_digest`` of each product, uint64 [products, 2]."""
        return _digests(self._table)[self._kept]

    def products(self, numbers: Sequence[int] | np.ndarray) -> list[Product]:
        """Some of the products, in the order asked for."""
        return [self._product(told) for told in self._table.take(self._kept[numbers]).to_pylist()]

    def rejects(self) -> pa.Table:
        """Rows that are no products, in the schema of ``rejects.py``."""
        wrong = np.setdiff1d(np.arange(len(self._table)), self._of_currency)
        told = [self._reject(number, OTHER_CURRENCY, None) for number in wrong]
        for number, first in zip(self._of_currency, self._firsts, strict=True):
            if first != -1:
                told.append(self._reject(int(number), DUPLICATE, int(first)))
        return pa.concat_tables([_mapped(self._folder / "rejects.arrow"), rejects_table(told)])

    def _reject(self, number: int, reason: str, first: int | None) -> Reject:
        row, code = (self._table[name][int(number)].as_py() for name in ("row", "code"))
        if first is None:
            value = f"{self._table['currency'][int(number)].as_py()}, expected {self.currency}"
        else:
            also = f"row {self._table['row'][first].as_py()}" if first >= 0 else _EARLIER
            value = f"{code}, also in {also}"
        return reject(self._options, row, code, reason, value)

    def _product(self, told: dict[str, Any]) -> Product:
        pictures = tuple(self._picture(place) for place in told.pop("pictures"))
        del told["digest"]
        return Product(**told | {"further": json.loads(told["further"]), "pictures": pictures})

    def _picture(self, place: dict[str, Any]) -> Picture:
        if place["file"] is not None:
            return Picture(Path(place["file"]))
        if place["url"] is not None:
            return Picture(place["url"], place["reason"])
        return Picture(Span(self._folder / "bytes.bin", place["offset"], place["length"]))
