"""Tables that are text: CSV, TSV, JSONL. A row's number is the line of the file where it starts.

Enters: a UTF-8 file, with or without byte-order mark. Leaves: an ``OpenTable``. Lines are looked at one by one, so that
an encoding fault names its line; CSV is read strictly, since else an unclosed quote would swallow the rest of the file.
"""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from phi3v_dist.catalog.open_table import OpenTable, TableRow, file_faults
from phi3v_dist.errors import CatalogError

_LONGEST_CELL = 2**24  # characters; ends an unclosed quote that no strict reader sees
_ROWS_LOOKED_AT = 100  # of a JSONL file, for the names of its columns
# What people call products.csv though it is none, by its first bytes.
_OTHER_KINDS = {
    b"\xff\xfe": ("is UTF-16, not UTF-8", "Save the table as UTF-8."),
    b"\xfe\xff": ("is UTF-16, not UTF-8", "Save the table as UTF-8."),
    b"PK\x03\x04": ("is a spreadsheet or zip file, not text", "Save the sheet as CSV UTF-8, or unpack the file."),
    b"\x1f\x8b": ("is compressed (gzip)", "Unpack it with gunzip."),
    b"PAR1": ("is a Parquet file, not text", "Set catalog.format=parquet"),
}


@contextmanager
def open_csv(path: Path, delimiter: str) -> Iterator[OpenTable]:
    """A table with a header line. Blank lines are no rows."""
    csv.field_size_limit(_LONGEST_CELL)
    with _lines(path) as lines:
        reader = csv.reader(lines, strict=True, delimiter=delimiter)
        with _csv_faults(path, reader, 1):
            header = [name.strip() for name in next(reader, [])]
        yield OpenTable(header, f"{path} line 1", lambda columns: _csv_rows(path, reader, header, columns))


@contextmanager
def open_jsonl(path: Path) -> Iterator[OpenTable]:
    """A table of one JSON object per line. A key that an object lacks is an empty cell."""
    with _lines(path) as lines:
        objects = _objects(path, lines)
        first = list(islice(objects, _ROWS_LOOKED_AT))
        names = list(dict.fromkeys(name for _, told in first for name in told))
        rows = chain(first, objects)
        yield OpenTable(names, f"{path}, first {len(first)} rows", lambda columns: _jsonl_rows(rows, columns))


def _csv_rows(path: Path, reader: Any, header: list[str], columns: list[str]) -> Iterator[TableRow]:
    places = [header.index(name) for name in columns]
    while True:
        start = reader.line_num + 1
        with _csv_faults(path, reader, start):
            cells = next(reader, None)
        if cells is None:
            return
        if cells:
            fits = len(cells) == len(header)
            if not fits:
                cells += [""] * len(header)
            yield TableRow(start, [cells[place] for place in places], fits)


@contextmanager
def _csv_faults(path: Path, reader: Any, start: int) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        value = f"{error}, line {reader.line_num}"
        where = f"{path} line {start}"
        raise CatalogError("isn't CSV", where=where, value=value, mend="Mend the quotes there.") from None


def _jsonl_rows(objects: Iterator[tuple[int, dict[str, Any]]], columns: list[str]) -> Iterator[TableRow]:
    for number, told in objects:
        yield TableRow(number, [told.get(name) for name in columns])


def _objects(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    mend = 'Each line has to be a JSON object, as in {"title": "Tie"}'
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line, strict=False)  # a tab inside a text is a fault of that product, not of the table
        except (ValueError, RecursionError) as error:
            raise CatalogError(f"isn't JSON ({error})", where=f"{path} line {number}", mend=mend) from None
        if not isinstance(told, dict):
            raise CatalogError("is no JSON object", where=f"{path} line {number}", value=line[:40], mend=mend)
        yield number, told


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a text file. Raises ``CatalogError`` for a file that is something else."""
    with file_faults(path):
        with open(path, "rb") as start:
            first_bytes = start.read(4)
        for magic, (what, mend) in _OTHER_KINDS.items():
            if first_bytes.startswith(magic):
                raise CatalogError(what, where=str(path), value=first_bytes, mend=mend)
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
            yield _decoded(path, handle)


def _decoded(path: Path, lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            if not line.isascii():
                line.encode()
        except UnicodeEncodeError as error:
            found = line[error.start : error.start + 8].encode("utf-8", "surrogateescape")
            where = f"{path} line {number}"
            raise CatalogError("isn't UTF-8", where=where, value=found, mend="Save the table as UTF-8.") from None
        yield line
