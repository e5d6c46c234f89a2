"""A decoded copy of the index that all processes of a node map: opened in milliseconds, in nobody's own memory.

Enters: ``index.parquet``, whose hash the caller has checked. Leaves: its table as a view of files that Arrow can map.
Parquet in the shard folder stays the truth; a copy is named by its hash and the schema, so it can't belong to another
index. One file per column, decoded a few at a time: the whole table would need 600 MB for a million samples.

::

    CACHE/index/<hash>/title.arrow …     whole or absent: written under another name, then renamed

Where nothing can be written the table is decoded into memory, as if there were no cache; so is a small one, which
takes no longer than mapping.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phi3v_dist.config.options import ShardOptions
from phi3v_dist.files import PARTIAL, clean_cache, fsync_file, fsync_folder, locked

_LAYOUT = "1"
_SMALL_BYTES = 2 * 2**20  # of Parquet, some 40,000 samples
_AT_A_TIME = 2  # columns that are decoded: more need more memory
_MOST_COPIES = 8  # of other indexes; a copy of a million samples is 290 MB


def cache_root(cache_folder: str | Path | None) -> Path:
    """The folder of all that is kept between runs; None: as ``shards.cache_folder`` says where nobody set it."""
    return Path(cache_folder or ShardOptions().cache_folder).expanduser().absolute()


def mapped_folder(cache_folder: str | Path | None, index_hash: str, schema: pa.Schema) -> Path:
    """Where the copy of an index lies or will lie."""
    told = f"{_LAYOUT} {index_hash} {schema.to_string()}"
    return cache_root(cache_folder) / "index" / hashlib.sha256(told.encode()).hexdigest()[:32]


def map_index(cached: Path, schema: pa.Schema) -> pa.Table | None:
    """The table as a view of a whole copy, marked as used now; None where there is none, or it can't be used."""
    try:
        columns = [
            pa.ipc.open_file(pa.memory_map(str(cached / f"{name}.arrow"))).get_batch(0).column(0)
            for name in schema.names
        ]
        with contextlib.suppress(OSError):  # another user's, and readable: as good
            os.utime(cached)
        return pa.Table.from_arrays(columns, schema=schema)
    except (OSError, pa.ArrowException):
        return None


def decode_index(content: pa.Buffer, cached: Path, schema: pa.Schema) -> tuple[pa.Table, Path | None]:
    """The table of a Parquet file's bytes, and the copy that it is a view of, made where it was missing."""
    if content.size >= _SMALL_BYTES:
        with contextlib.suppress(OSError):  # a cache that can't be written is none
            _make_copy(content, cached, schema)
        if (table := map_index(cached, schema)) is not None:
            return table, cached
    return pa.Table.from_arrays([_column(content, field) for field in schema], schema=schema), None


def _column(content: pa.Buffer, field: pa.Field) -> pa.Array:
    """Decode one column, whole."""
    shared = [field.name] if pa.types.is_dictionary(field.type) else []
    table = pq.ParquetFile(pa.BufferReader(content), read_dictionary=shared).read([field.name], use_threads=False)
    column = table.unify_dictionaries().column(0).combine_chunks()
    return column if column.type == field.type else column.cast(field.type)  # of no rows: a type of its own


def _make_copy(content: pa.Buffer, cached: Path, schema: pa.Schema) -> None:
    """Write the copy; of several processes one does it and the others wait. Raises ``OSError``."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    with locked(cached.parent / ".lock"):
        if map_index(cached, schema) is not None:
            return
        shutil.rmtree(cached, ignore_errors=True)  # unusable: of a disk that lost what it had been given
        temporary = cached.with_name(f".{cached.name}.{secrets.token_hex(4)}{PARTIAL}")
        temporary.mkdir()
        try:
            with ThreadPoolExecutor(_AT_A_TIME) as cores, ThreadPoolExecutor(1) as disk:
                written = cores.map(partial(_write_column, content, temporary), _largest_first(content, schema))
                durable = [disk.submit(fsync_file, path) for path in written]
            for told in durable:
                told.result()
            os.rename(temporary, cached)
            fsync_folder(cached.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        clean_cache(cached, _MOST_COPIES)


def _largest_first(content: pa.Buffer, schema: pa.Schema) -> list[pa.Field]:
    """Columns in an order in which the disk is busy early."""
    told, sizes = pq.read_metadata(pa.BufferReader(content)), Counter()
    for group in map(told.row_group, range(told.num_row_groups)):
        for part in map(group.column, range(group.num_columns)):
            sizes[part.path_in_schema.split(".")[0]] += part.total_uncompressed_size
    return sorted(schema, key=lambda field: -sizes[field.name])


def _write_column(content: pa.Buffer, folder: Path, field: pa.Field) -> Path:
    batch = pa.record_batch([_column(content, field)], names=[field.name])
    path = folder / f"{field.name}.arrow"
    with pa.ipc.new_file(str(path), batch.schema) as file:
        file.write_batch(batch)
    del batch
    pa.default_memory_pool().release_unused()
    return path
