"""Checked products on disk, so that a million of them never stand in memory.

Enters: a product table, and the codes that earlier deliveries have. Leaves a folder::

    products.arrow     rows that passed the checks of a row, memory-mapped
    bytes.bin          the pictures that the table held itself
    rejects.arrow      the others
    of_currency.npy    numbers of the rows that have the right currency
    firsts.npy         for each of those: -1 for the first of its code, else that one's number; -2 where an earlier
                       delivery has the code
    kept.npy           numbers of the first ones: these are the products
    digests.npy        ``code_digest`` of each
    table.json         how many rows and URLs of pictures the table had, and its currency; last

and, read back, a ``ProductFile``: products by number, in the table's order. Several processes may write it at once:
each file is whole under its name, and alike whoever writes it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
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
from phi3v_dist.files import atomic_path, write_json
from phi3v_dist.mapped_arrays import NewArray, Sorting, arrays_in, blocks, chosen, new_file, open_file

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


def write_product_file(
    folder: Path, options: CatalogOptions, earlier_codes: Sequence[str] = (), earlier_currency: str = ""
) -> None:
    """Read and check the table. Raises ``CatalogError`` for a table that can't be used at all."""
    root = Path(options.table).parent if options.image_root is None else Path(options.image_root)
    fetched = FetchedPictures(options.fetched_folder)
    find = partial(picture_of, root=root, fetched=fetched)
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
    currency = options.currency or earlier_currency or _most_frequent(currencies)
    if not currency and options.policy.other_currency == "reject":
        mend = "Name its column in catalog.columns.currency; or say which it is, as in catalog.currency=EUR."
        raise CatalogError("no row has a currency", where=options.table, mend=mend)
    with TemporaryDirectory(dir=folder, prefix=".") as scratch:
        _choose_products(folder, options, currency, earlier_codes, arrays_in(Path(scratch)))
    write_json(folder / "table.json", {"num_rows": num_rows, "num_urls": fetched.num_asked, "currency": currency})


def _choose_products(
    folder: Path, options: CatalogOptions, currency: str, earlier_codes: Sequence[str], new: NewArray
) -> None:
    """Of the rows that passed, those of the currency, and the first of each code."""
    rows, digests = _read_passed(folder / "products.arrow", currency, new)
    wanted = rows if options.policy.other_currency == "reject" else np.broadcast_to(np.True_, len(rows))
    kept = chosen(new, len(wanted), wanted.__getitem__)
    firsts = _first_of_each_code(digests, kept, earlier_codes, new)
    is_first = chosen(new, len(firsts), lambda part: firsts[part] == -1)
    _write(folder / "of_currency.npy", len(kept), "i8", kept.__getitem__)
    _write(folder / "firsts.npy", len(kept), "i8", firsts.__getitem__)
    _write(folder / "kept.npy", len(is_first), "i8", lambda part: kept[is_first[part]])
    _write(folder / "digests.npy", (len(is_first), 2), "u8", lambda part: digests[kept[is_first[part]]])


def _read_passed(path: Path, currency: str, new: NewArray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a row has the currency, bool [rows]; the digest of its code, uint64 [rows, 2]."""
    passed = _mapped(path)
    of_currency, digests, start = new(len(passed), "?"), new((len(passed), 2), "u8"), 0
    for batch in passed.to_batches():
        part = slice(start, start + len(batch))
        if currency:
            of_currency[part] = pa.compute.equal(batch["currency"], currency).to_numpy(zero_copy_only=False)
        digests[part] = batch["digest"].flatten().to_numpy().reshape(-1, 2)
        start = part.stop
    return of_currency, digests


def _write(path: Path, shape: int | tuple[int, ...], dtype: str, rows: Callable[[slice], np.ndarray]) -> None:
    with atomic_path(path) as temporary:
        array = new_file(temporary, shape, dtype)
        for part in blocks(len(array)):
            array[part] = rows(part)
        array.flush()


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


def _first_of_each_code(
    digests: np.ndarray, kept: np.ndarray, earlier_codes: Sequence[str], new: NewArray
) -> np.ndarray:
    """For each kept row: -1 for the first of its code, else that one's number; -2 where an earlier delivery has it."""
    ahead = len(earlier_codes)
    all_digests, firsts = new((ahead + len(kept), 2), "u8"), new(len(kept), "i8")
    for number, code in enumerate(earlier_codes):
        all_digests[number] = code_digest(code)
    for part in blocks(len(kept)):
        all_digests[ahead + part.start : ahead + part.stop] = digests[kept[part]]
    for block in Sorting(new, len(all_digests), lambda part: all_digests[part, 0]).whole_blocks():
        names = all_digests[block].view([("high", "u8"), ("low", "u8")]).reshape(-1)
        _, first, which = np.unique(names, return_index=True, return_inverse=True)
        own = block >= ahead
        numbers, its_first = block[own], block[first[which]][own]
        found = np.where(its_first == numbers, -1, kept[np.maximum(its_first - ahead, 0)])
        firsts[numbers - ahead] = np.where(its_first < ahead, -2, found)
    return firsts


class ProductFile:
    """The products of a folder by number, 0 to n-1. A process opens it in a moment and maps what it reads.

    ``digests``: ``code_digest`` of each product, uint64 [products, 2].
    """

    def __init__(self, folder: Path, options: CatalogOptions) -> None:
        self._folder, self._options = folder, options
        self._table = _mapped(folder / "products.arrow")
        self._batches = self._table.to_batches()
        self._starts = np.cumsum([0, *map(len, self._batches)])
        told = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        self.num_rows, self.num_urls, self.currency = told["num_rows"], told["num_urls"], told["currency"]
        self._kept, self._of_currency, self._firsts, self.digests = (
            open_file(folder / f"{name}.npy") for name in ("kept", "of_currency", "firsts", "digests")
        )

    @staticmethod
    def is_there(folder: Path) -> bool:
        """Whether the folder is complete."""
        return (folder / "table.json").exists()

    def __len__(self) -> int:
        return len(self._kept)

    def products(self, numbers: Sequence[int] | np.ndarray) -> list[Product]:
        """Some of the products, in the order asked for."""
        rows = self._kept[numbers]
        batch_of = np.searchsorted(self._starts, rows, "right") - 1
        found: dict[int, dict[str, Any]] = {}
        # Batch by batch: Arrow takes from all of them in turn, which with a million rows costs more than the products.
        for batch, group in groupby(np.argsort(batch_of, kind="stable"), key=batch_of.__getitem__):
            places = list(group)
            some = self._batches[batch].take(pa.array(rows[places] - self._starts[batch]))
            found.update(zip(places, some.to_pylist(), strict=True))
        return [self._product(found[place]) for place in range(len(rows))]

    def rejects(self) -> pa.Table:
        """Rows that are no products, in the schema of ``rejects.py``."""
        told = [self._reject(number, OTHER_CURRENCY, None) for number in self._of_other_currency()]
        for part in blocks(len(self._firsts)):
            for place in np.flatnonzero(self._firsts[part] != -1) + part.start:
                told.append(self._reject(int(self._of_currency[place]), DUPLICATE, int(self._firsts[place])))
        return pa.concat_tables([_mapped(self._folder / "rejects.arrow"), rejects_table(told)])

    def _of_other_currency(self) -> Iterator[int]:
        for part in blocks(len(self._table)):
            start, stop = np.searchsorted(self._of_currency, [part.start, part.stop])
            yield from np.setdiff1d(np.arange(part.start, part.stop), self._of_currency[start:stop]).tolist()

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
