"""From a product table of any kind to raw rows: text after the recipe's rules, nothing judged yet.

Enters: what ``catalog.table`` names: a CSV, TSV, JSONL, Parquet or Arrow file, a folder of ``save_to_disk``, or a data
set that the ``datasets`` library loads. Leaves: one ``RawRow`` after the other, never all at once. Cells become text,
because a reader that guesses types turns the code 00042 into 42. A table that can't be read as a whole is an error
here; a row that is wrong is the business of ``checks``.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path

from phi3v_dist.catalog.arrow_tables import (
    is_saved_dataset,
    load_dataset,
    open_arrow_file,
    open_dataset,
    open_parquet,
)
from phi3v_dist.catalog.cells import PictureCell, cell_pictures, cell_text
from phi3v_dist.catalog.open_table import ENDINGS, OpenTable, file_faults, no_such_table
from phi3v_dist.catalog.rules import apply_rules
from phi3v_dist.catalog.text_tables import open_csv, open_jsonl
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError
from phi3v_dist.files import sha256_of

_DATASET_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TEXT_FIELDS = {name: name for name in ("title", "category", "price", "currency")} | {"code": "product_code"}


@dataclass(frozen=True)
class RawRow:
    """One product as the table tells it. ``row``: line of the text file where it starts (the header is line 1), or
    the row's number from 1; of joined rows the first.

    ``pictures`` in order, none twice. ``further``: the texts of ``catalog.columns.further``. ``fits``: the row has as
    many cells as the header.
    """

    row: int
    code: str
    title: str
    category: str
    price: str
    currency: str
    pictures: tuple[PictureCell, ...]
    further: dict[str, str] = field(default_factory=dict)
    fits: bool = True


def read_table(options: CatalogOptions) -> Iterator[RawRow]:
    """Read the product table row by row.

    Raises ``CatalogError`` when it is met: the file is missing, is of another kind or encoding, lacks a column (all
    before the first row), or is damaged further down.
    """
    with _open_table(options) as table:
        rows = _raw_rows(table, options)
        yield from _joined(rows) if options.join_rows else rows


def table_sha256(options: CatalogOptions) -> str:
    """A hash over the whole content of the table. Raises ``CatalogError``."""
    kind, path = _kind_of(options), Path(options.table)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    elif kind == "dataset":
        files = [Path(file["filename"]) for file in load_dataset(options).cache_files]
    else:
        with file_faults(path):
            return sha256_of(path)
    whole = hashlib.sha256()
    for file in files:
        with file_faults(file):
            whole.update(f"{file.name} {sha256_of(file)}\n".encode())
    return whole.hexdigest()


def _kind_of(options: CatalogOptions) -> str:
    path = Path(options.table)
    if options.format != "auto":
        return options.format
    if path.is_dir():
        return "arrow" if is_saved_dataset(path) else "dataset"
    if (kind := ENDINGS.get(path.suffix.lower())) is not None:
        return kind
    if path.is_file():
        mend = "Set catalog.format to csv, tsv, jsonl, parquet or arrow."
        raise CatalogError("the ending tells no kind of table", where=str(path), value=path.suffix, mend=mend)
    if not _DATASET_NAME.fullmatch(options.table):
        raise no_such_table(path)
    return "dataset"


def _open_table(options: CatalogOptions) -> AbstractContextManager[OpenTable]:
    kind, path = _kind_of(options), Path(options.table)
    match kind:
        case "csv" | "tsv":
            return open_csv(path, options.delimiter or {"csv": ",", "tsv": "\t"}[kind])
        case "jsonl":
            return open_jsonl(path)
        case "parquet":
            return open_parquet(path)
        case "arrow" if not path.is_dir():
            return open_arrow_file(path)
    return open_dataset(options)


def _raw_rows(table: OpenTable, options: CatalogOptions) -> Iterator[RawRow]:
    columns, rules = options.columns, options.rules
    wanted = _wanted_columns(table, options)
    places = {name: place for place, name in enumerate(wanted)}
    texts = {
        field: ([places[name] for name in getattr(columns, option)], getattr(rules, option, ()))
        for field, option in _TEXT_FIELDS.items()
    }
    further = {name: ([places[column]], rules.further) for name, column in columns.further.items()}
    pictures = [places[name] for name in columns.image_path]
    for row in table.rows(wanted):
        cells = row.cells
        told = {field: _first_text(cells, *how) for field, how in texts.items()}
        if not columns.currency:
            told["currency"] = options.currency or ""
        yield RawRow(
            row=row.row,
            **told,
            pictures=_pictures([cells[place] for place in pictures], options),
            further={name: _first_text(cells, *how) for name, how in further.items()},
            fits=row.fits,
        )


def _wanted_columns(table: OpenTable, options: CatalogOptions) -> list[str]:
    """Every column that the options name, once. Raises ``CatalogError`` for one that isn't there, or is there twice."""
    told = options.columns.model_dump()
    named = [(option, column) for option, columns in told.items() if option != "further" for column in columns]
    named += [(f"further.{name}", column) for name, column in told["further"].items()]
    for option, column in named:
        count = table.names.count(column)
        if count != 1:
            near = get_close_matches(column, table.names, n=1) or ["…"]
            mend = f"There is: {', '.join(table.names) or 'nothing'}. "
            if len(table.names) == 1 and (sign := next((sign for sign in ";\t|" if sign in table.names[0]), None)):
                mend += f"Perhaps catalog.delimiter={sign!r}. "
            raise CatalogError(
                "has no such column" if count == 0 else f"has this column {count} times",
                where=table.where,
                value=column,
                mend=f"{mend}Name yours, as in catalog.columns.{option}={near[0]}",
            )
    return list(dict.fromkeys(column for _, column in named))


def _first_text(cells: Sequence[object], places: list[int], rules: Sequence[str]) -> str:
    """Text of the first of these cells that isn't empty, after the rules."""
    for place in places:
        if text := cell_text(cells[place]):
            return apply_rules(rules, text)
    return ""


def _pictures(cells: Sequence[object], options: CatalogOptions) -> tuple[PictureCell, ...]:
    found = [picture for cell in cells for picture in cell_pictures(cell, options.picture_separator)]
    rules = options.rules.image_path
    cleaned = [apply_rules(rules, picture) if isinstance(picture, str) else picture for picture in found]
    return tuple(dict.fromkeys(filter(None, cleaned)))


def _joined(rows: Iterator[RawRow]) -> Iterator[RawRow]:
    """Rows of one code that follow each other as one: all their pictures, and each text from the first that has it."""
    for _, group in groupby(rows, key=lambda row: row.code or row.row):
        first, *more = group
        if not more:
            yield first
            continue
        same = [first, *more]
        yield RawRow(
            row=first.row,
            code=first.code,
            title=_first_of(row.title for row in same),
            category=_first_of(row.category for row in same),
            price=_first_of(row.price for row in same),
            currency=_first_of(row.currency for row in same),
            pictures=tuple(dict.fromkeys(picture for row in same for picture in row.pictures)),
            further={name: _first_of(row.further[name] for row in same) for name in first.further},
            fits=all(row.fits for row in same),
        )


def _first_of(texts: Iterator[str]) -> str:
    return next(filter(None, texts), "")
