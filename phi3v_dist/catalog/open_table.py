"""An open product table, whatever kind of file it is: the names of its columns, and its rows one by one.

Enters: from ``text_tables`` and ``arrow_tables``, each kind of table. Leaves: one shape for ``tables`` to read, and the
faults that all kinds share, in the same words. Rows are streamed: no table has to fit into memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from phi3v_dist.errors import CatalogError

ENDINGS = {
    **{".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"},
    **{".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow"},
}
SET_TABLE = "Set catalog.table"


@dataclass(frozen=True)
class TableRow:
    """``row``: its number, as a person finds it; ``cells``: of the columns asked for, in that order.

    ``fits``: the row has as many cells as the header. With more or fewer, cells may stand under the wrong column.
    """

    row: int
    cells: Sequence[object]
    fits: bool = True


@dataclass(frozen=True)
class OpenTable:
    """``where``: what an error about its columns names. ``rows``: given the columns that are wanted, each once."""

    names: Sequence[str]
    where: str
    rows: Callable[[list[str]], Iterator[TableRow]]


@contextmanager
def file_faults(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into one line."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise no_such_table(path) from None
    except OSError as error:
        mend = "Set catalog.table to a file that you may read."
        raise CatalogError(f"can't be read: {error.strerror or error}", where=str(path), mend=mend) from None


def no_such_table(path: Path) -> CatalogError:
    """The error for a table that isn't there; it names those nearby."""
    return CatalogError("no such product table", where=str(path), mend=_tables_nearby(path))


def _tables_nearby(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {folder} either. {SET_TABLE}"
    found = (entry.name for entry in sorted(folder.iterdir()) if entry.suffix.lower() in ENDINGS)
    names = list(islice(found, 5))
    return f"In {folder} there is: {', '.join(names)}. {SET_TABLE}" if names else SET_TABLE
