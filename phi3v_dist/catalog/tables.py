"""From a product table to raw rows: text as it stands in the file, nothing judged yet.

Enters: the CSV file that the options name. Leaves: one ``RawRow`` per row. All cells stay text, because a reader that
guesses types turns the code 00042 into 42. A table that can't be read as a whole is an error here; a row that is wrong
is the business of ``checks``.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TextIO

from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError


@dataclass(frozen=True)
class RawRow:
    """Cells of one row, stripped of outer blanks. ``row``: line of the file where it starts (the header is line 1).

    ``fits``: the row has as many cells as the header. With more or fewer, cells may stand under the wrong column.
    """

    row: int
    code: str
    title: str
    category: str
    price: str
    currency: str
    image_path: str
    fits: bool = True


def read_table(options: CatalogOptions) -> list[RawRow]:
    """Read the product table. Blank lines are no rows.

    Raises ``CatalogError``: the file is missing, isn't UTF-8, isn't CSV, or lacks a column.
    """
    path = Path(options.table)
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            return list(_rows(handle, options))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise CatalogError("no such product table", where=str(path), mend=_tables_nearby(path)) from None
    except OSError as error:
        mend = "Set catalog.table to a file that you may read."
        raise CatalogError(f"can't be read: {error.strerror}", where=str(path), mend=mend) from None
    except UnicodeDecodeError as error:
        found = error.object[error.start : error.start + 8]
        mend = "Save the table as UTF-8."
        raise CatalogError("isn't UTF-8", where=str(path), value=found, mend=mend) from None


def _rows(handle: TextIO, options: CatalogOptions) -> Iterator[RawRow]:
    reader = csv.reader(handle, strict=True)  # strict: else an unclosed quote swallows the rest of the table
    try:
        header = [name.strip() for name in next(reader, [])]
        places = _places(header, options)
        start = reader.line_num + 1
        for cells in reader:
            if cells:
                padded = [*cells, *[""] * len(header)]
                texts = {field: padded[place].strip() for field, place in places.items()}
                yield RawRow(start, **texts, fits=len(cells) == len(header))
            start = reader.line_num + 1
    except csv.Error as error:
        where = f"{options.table} line {reader.line_num}"
        raise CatalogError("isn't CSV", where=where, value=str(error), mend="Mend the quotes there.") from None


def _places(header: list[str], options: CatalogOptions) -> dict[str, int]:
    """Field of ``RawRow`` → position of its column."""
    places = {}
    for option, column in options.columns.model_dump().items():
        count = header.count(column)
        if count != 1:
            near = get_close_matches(column, header, n=1) or ["…"]
            there = ", ".join(header) or "nothing"
            raise CatalogError(
                "has no such column" if count == 0 else f"has this column {count} times",
                where=f"{options.table} line 1",
                value=column,
                mend=f"There is: {there}. Name yours, as in catalog.columns.{option}={near[0]}",
            )
        places["code" if option == "product_code" else option] = header.index(column)
    return places


def _tables_nearby(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {folder} either. Set catalog.table"
    names = [found.name for found in islice(sorted(folder.glob("*.csv")), 5)]
    return f"In {folder} there is: {', '.join(names)}. Set catalog.table" if names else "Set catalog.table"
