"""Tables with typed columns: Parquet, Arrow, and whatever the ``datasets`` library loads. Rows count from 1.

Enters: a file, a folder that ``save_to_disk`` wrote, or a data set (a name on the hub, a folder of data files). Leaves:
an ``OpenTable``. Rows come in small batches, as a cell may be a whole picture; pictures are never decoded here.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi3v_dist.catalog.open_table import SET_TABLE, OpenTable, TableRow, file_faults
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError

# Batches of a table without pictures pass 100,000 rows a second; with a megabyte in each row they still fit anywhere.
_ROWS_PER_BATCH = 128
_READ_BYTES = 2**20  # at once, instead of a row group's whole column
_COPY_AGAIN = "Copy or export the table again."


@contextmanager
def open_parquet(path: Path) -> Iterator[OpenTable]:
    """A Parquet file."""
    # A file of Arrow's own and one thread: its threads would wait for Python's lock, which their owner may hold.
    with file_faults(path), pa.OSFile(str(path)) as source:
        with _arrow_faults(str(path)):
            # Without pre_buffer, which would keep every row group that was read until the last one.
            file = pq.ParquetFile(source, buffer_size=_READ_BYTES, pre_buffer=False, page_checksum_verification=True)
            names = file.schema_arrow.names

        def rows(columns: list[str]) -> Iterator[TableRow]:
            return _rows(file.iter_batches(_ROWS_PER_BATCH, columns=columns, use_threads=False), columns, str(path))

        yield OpenTable(names, str(path), rows)


@contextmanager
def open_arrow_file(path: Path) -> Iterator[OpenTable]:
    """An Arrow file, of the file or the stream format."""
    with file_faults(path), pa.memory_map(str(path)) as source:
        with _arrow_faults(str(path)):
            try:
                file = pa.ipc.open_file(source)
                batches = (file.get_batch(number) for number in range(file.num_record_batches))
            except pa.ArrowInvalid:
                source.seek(0)
                batches = file = pa.ipc.open_stream(source)
        pieces = (
            batch.slice(start, _ROWS_PER_BATCH)
            for batch in batches
            for start in range(0, batch.num_rows, _ROWS_PER_BATCH)
        )
        yield OpenTable(file.schema.names, str(path), lambda columns: _rows(pieces, columns, str(path)))


@contextmanager
def open_dataset(options: CatalogOptions) -> Iterator[OpenTable]:
    """A data set of the ``datasets`` library."""
    dataset = load_dataset(options)

    def rows(columns: list[str]) -> Iterator[TableRow]:
        pieces = dataset.select_columns(columns).with_format("arrow").iter(_ROWS_PER_BATCH)
        return _rows(pieces, columns, options.table)

    yield OpenTable(dataset.column_names, options.table, rows)


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote the folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def load_dataset(options: CatalogOptions) -> Any:
    """The split that the options name, mapped from disk. Raises ``CatalogError``.

    A folder of ``save_to_disk`` is read where it lies; else ``datasets`` downloads, converts and keeps it in its cache.
    """
    import datasets  # half a second, and only this kind of table needs it

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    folder, split = Path(options.table), options.dataset_split
    try:
        if is_saved_dataset(folder):
            saved = datasets.load_from_disk(str(folder))
            if isinstance(saved, datasets.Dataset):
                return saved
            if split not in saved:
                raise ValueError(f"Unknown split {split!r}. There is: {', '.join(saved)}")
            return saved[split]
        name, revision = options.dataset_config, options.dataset_revision
        return datasets.load_dataset(options.table, name, split=split, revision=revision)
    except Exception as error:  # its builders raise what the libraries below them do
        reason = next(iter(f"{error}".splitlines()), "") or type(error).__name__
        raise CatalogError(
            f"can't be loaded as a data set: {reason}",
            where=options.table,
            mend=f"{SET_TABLE} to a file, folder or data set; see catalog.dataset_split and dataset_config.",
        ) from None


def _rows(batches: Iterable[Any], columns: list[str], where: str) -> Iterator[TableRow]:
    row = 0
    batches = iter(batches)
    while True:
        with _arrow_faults(where, row):
            batch = next(batches, None)
            cells = [] if batch is None else [_values(batch.column(name)) for name in columns]
        if batch is None:
            return
        for values in zip(*cells, strict=True):
            row += 1
            yield TableRow(row, values)


def _values(column: Any) -> Any:
    """A column's cells as Python values; floats keep their width, so that 12.1 of 32 bits is written as 12.1."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    _as_bytes(column).validate(full=True)  # a place outside the file would end the process without a word
    if pa.types.is_floating(column.type):
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            return column.to_pylist()
        except UnicodeDecodeError:  # one text that isn't UTF-8 is a fault of that product, not of the table
            texts = _as_bytes(column).to_pylist()
            return [None if text is None else text.decode("utf-8", "replace") for text in texts]
    return column.to_pylist()


def _as_bytes(column: Any) -> Any:
    """A column of texts as bytes, any other as it is."""
    if pa.types.is_string(column.type):
        return column.view(pa.binary())
    return column.view(pa.large_binary()) if pa.types.is_large_string(column.type) else column


@contextmanager
def _arrow_faults(where: str, rows_before: int | None = None) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        reason = next(iter(f"{error}".splitlines()), "")
        if rows_before is None:
            raise CatalogError(f"isn't a whole table: {reason}", where=where, mend=_COPY_AGAIN) from None
        what = f"is damaged: {reason}"
        raise CatalogError(what, where=f"{where} behind row {rows_before}", mend=_COPY_AGAIN) from None
