"""The index: for each sample its place in a tar file, its picture sizes and its texts.

Enters: rows of tar files (from who writes or adopts them), later ``index.parquet``. Leaves: a ``ShardIndex`` that knows
every sample by its number 0..n-1, so that shuffling, packing and resuming are arithmetic on numbers. No torch in here.
"""

import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from phi3v_dist.errors import ShardError
from phi3v_dist.files import atomic_path, xxh3_of
from phi3v_dist.shards.index_cache import decode_index, map_index, mapped_folder
from phi3v_dist.shards.manifest import MAKE_ANEW, MAKE_THEM, read_manifest
from phi3v_dist.shards.remote import as_folder, is_remote

SCHEMA = pa.schema(
    [
        ("sample", pa.int64()),  # 0..n-1 over both splits
        ("shard", pa.string()),  # path relative to the folder
        ("key", pa.string()),  # name of the members before their first dot
        ("split", pa.string()),
        ("product_code", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("price", pa.float64()),
        ("currency", pa.string()),
        ("further", pa.string()),  # JSON object of texts: one flat column, whatever a catalogue calls them
        ("json_offset", pa.int64()),  # first byte of the member's data in the tar file
        ("json_bytes", pa.int64()),
        ("image_offset", pa.list_(pa.int64())),
        ("image_bytes", pa.list_(pa.int64())),
        ("width", pa.list_(pa.int32())),  # pixels after the EXIF turn
        ("height", pa.list_(pa.int32())),
        ("xxh3", pa.uint64()),  # XXH3-64 of the JSON's bytes and then each picture's, see ``checksum``
    ]
)
SHARD_SCHEMA = SCHEMA.remove(0)
_ROWS_IN_GROUP = 65_536  # so many rows of the index are in memory when it is written
# Texts that many samples share: in memory a number each, which also decodes four times as fast.
_SHARED_TEXTS = ("shard", "split", "category", "currency", "further")
TABLE_SCHEMA = pa.schema(
    [
        (field.name, pa.dictionary(pa.int32(), pa.string()) if field.name in _SHARED_TEXTS else field.type)
        for field in SHARD_SCHEMA
    ]
)


_MEMBER_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """All samples of a shard folder; ``table`` has the columns of ``TABLE_SCHEMA``, row number = sample
    number.

    ``folder``: a ``Path``, or a ``UPath`` where the shards lie behind a URL. ``mapped_from``: the decoded copy that
    ``table`` is a view of (shards/index_cache.py), None where the table lies in memory.
    """

    folder: Path
    table: pa.Table
    index_hash: str
    mapped_from: Path | None = None

    def __len__(self) -> int:
        return self.table.num_rows

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader process maps the copy (5 ms for a million samples) instead of receiving 280 MB.
        return _open_again, (str(self.folder), self.index_hash, self.mapped_from)

    def numbers(self, split: str) -> np.ndarray:
        """Sample numbers of a split, int64 [n], rising."""
        splits = self.array("split")
        names = splits.dictionary.to_pylist()
        return np.flatnonzero(as_numpy(splits.indices) == (names.index(split) if split in names else -1))

    def array(self, name: str) -> pa.Array:
        """One column as a single Arrow array, [n], without a copy."""
        return self.table[name].chunk(0)

    def column(self, name: str) -> np.ndarray:
        """One flat column as numpy, [n]; texts as objects."""
        return self.array(name).to_numpy(zero_copy_only=False)

    def row(self, number: int) -> dict[str, Any]:
        """All columns of one sample as Python values. Raises ``IndexError`` for a number that doesn't exist."""
        told = {name: self.table[name][number].as_py() for name in TABLE_SCHEMA.names}
        return {"sample": number} | told

    def sizes(self, number: int) -> list[tuple[int, int]]:
        """Width and height of each picture of a sample, pixels after the EXIF turn."""
        starts, widths, heights = self.picture_sizes
        part = slice(starts[number], starts[number + 1])
        return list(zip(widths[part].tolist(), heights[part].tolist(), strict=True))

    @cached_property
    def picture_sizes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``starts`` int64 [n+1], ``widths``, ``heights`` int32 [pictures]: sample i owns starts[i]:starts[i+1]."""
        starts = np.zeros(len(self) + 1, np.int64)
        np.cumsum(as_numpy(pc.list_value_length(self.array("width"))), out=starts[1:])
        return starts, *(as_numpy(self.array(name).flatten()) for name in ("width", "height"))

    @cached_property
    def shards(self) -> tuple[list[str], np.ndarray]:
        """Names of the tar files in the order of the samples, and int32 [n]: which of them holds each sample."""
        names = self.array("shard")
        return names.dictionary.to_pylist(), as_numpy(names.indices)

    def category_counts(self) -> list[tuple[str, str, int]]:
        """(split, category, samples), sorted."""
        counts = self.table.group_by(["split", "category"]).aggregate([("key", "count")])
        return sorted((row["split"], row["category"], row["key_count"]) for row in counts.to_pylist())


def as_numpy(array: pa.Array) -> np.ndarray:
    """A view of numbers without nulls, [n]. ``to_numpy`` would import pandas first: 0.3 s and 30 MB."""
    return np.from_dlpack(array)


def write_index(path: Path, parts: Iterable[pa.Table]) -> None:
    """Number the samples of all parts, tables of ``SHARD_SCHEMA``, and write the index."""
    # A dictionary of texts of which no two are alike makes the file larger, and takes twice as long to decode.
    how = {"compression": "zstd", "use_dictionary": list(_SHARED_TEXTS)}
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, **how) as writer:
        pending, count = [SCHEMA.empty_table()], 0
        for part in parts:
            numbers = pa.array(np.arange(count, count + len(part), dtype=np.int64))
            pending.append(part.add_column(0, SCHEMA.field("sample"), numbers))
            count += len(part)
            if sum(map(len, pending)) >= _ROWS_IN_GROUP:
                writer.write_table(pa.concat_tables(pending))
                pending = []
        if pending:
            writer.write_table(pa.concat_tables(pending))


def load_index(folder: str | Path, cache_folder: str | Path | None = None) -> ShardIndex:
    """The index of a finished shard folder, a path or a URL; decoded once into ``cache_folder`` (see index_cache.py).

    Raises ``ShardError`` when manifest or index are missing or damaged, or a tar file is missing or has another size
    (contents are checked sample by sample when read, and all at once by ``tools/inspect_shards.py --verify``). Behind
    a URL nobody asks for a thousand sizes.
    """
    folder = as_folder(folder)
    manifest = read_manifest(folder)
    if not is_remote(folder):
        for shard in manifest["shards"]:
            check_file(folder, shard)
    return open_index(folder, manifest, cache_folder)


def open_index(folder: Path, manifest: dict[str, Any], cache_folder: str | Path | None = None) -> ShardIndex:
    """The index alone, checked against the manifest's hash. Raises ``ShardError``.

    A local file is hashed each time (10 ms for a million samples), so that a copy never hides that it has changed.
    Behind a URL a copy is taken for what it is: decoded from bytes of this hash.
    """
    told = manifest["index"]
    path, index_hash = folder / told["path"], told["xxh3_128"]
    cached = mapped_folder(cache_folder, index_hash, TABLE_SCHEMA)
    table = map_index(cached, TABLE_SCHEMA)
    if not is_remote(folder):
        check_file(folder, told)
        if table is not None and xxh3_of(path) != index_hash:
            table = None  # reading it will tell
    if table is None:
        table, cached = decode_index(_checked_bytes(path, index_hash), cached, TABLE_SCHEMA)
    return ShardIndex(folder, table, index_hash, cached)


def _checked_bytes(path: Path, index_hash: str) -> pa.Buffer:
    """An index file, mapped where it is local, and what it should be."""
    content = pa.py_buffer(path.read_bytes()) if is_remote(path) else pa.memory_map(str(path)).read_buffer()
    if (found := xxhash.xxh3_128_hexdigest(content)) != index_hash:
        raise ShardError("the index is damaged, its XXH3-128 is not the manifest's", where=str(path), value=found,
                         mend=MAKE_ANEW)  # fmt: skip
    stored = pq.read_schema(pa.BufferReader(content))
    if not stored.equals(SCHEMA):
        raise ShardError("the index was written by another version", where=str(path), value=stored.names,
                         mend=MAKE_ANEW)  # fmt: skip
    return content


def _open_again(folder: str, index_hash: str, mapped_from: Path | None) -> ShardIndex:
    """The index in another process: from the copy where there is one, else as the first time."""
    if mapped_from is not None and (table := map_index(mapped_from, TABLE_SCHEMA)) is not None:
        return ShardIndex(as_folder(folder), table, index_hash, mapped_from)
    return load_index(folder)


def check_file(folder: Path, told: dict[str, Any]) -> None:
    """Raise ``ShardError`` unless the file is there with the size that the manifest tells."""
    path = folder / told["path"]
    if not path.is_file():
        raise ShardError("a file of the manifest is missing", where=str(path), mend=f"Copy it back. Or: {MAKE_THEM}")
    if (found := path.stat().st_size) != told["bytes"]:
        raise ShardError(f"{told['bytes']} bytes expected", where=str(path), value=found, mend=MAKE_ANEW)


def check_content(folder: Path, told: dict[str, Any]) -> Path:
    """The path of a file that has the manifest's bytes. Raises ``ShardError``: a reader may crash on others."""
    check_file(folder, told)
    path = folder / told["path"]
    if (found := xxh3_of(path)) != told["xxh3_128"]:
        raise ShardError("is damaged, its XXH3-128 is not the manifest's", where=str(path), value=found, mend=MAKE_ANEW)
    return path


def samples_of(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(key, suffix → member), in the order of the tar file; members of a sample lie side by side.

    A key ends at the first dot of the file's name, folders before it belong to it; suffixes are lower-cased.
    """
    key = ""
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        named = _MEMBER_NAME.fullmatch(member.name)
        if named is None or not member.isfile():
            continue
        new_key, suffix = named.groups()
        if new_key != key and members:
            yield key, members
            members = {}
        key, members[suffix.lower()] = new_key, member
    if members:
        yield key, members


def member_columns(
    offsets: Sequence[int], contents: Sequence[bytes], sizes: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """What the index says about a sample's members: the JSON, then each picture.

    ``offsets``: of their first bytes in the tar file; ``sizes``: of the pictures, pixels after the EXIF turn.
    """
    return {
        "json_offset": offsets[0],
        "json_bytes": len(contents[0]),
        "image_offset": offsets[1:],
        "image_bytes": [len(content) for content in contents[1:]],
        "width": [width for width, _ in sizes],
        "height": [height for _, height in sizes],
        "xxh3": checksum(contents),
    }


def checksum(contents: Sequence[bytes]) -> int:
    """XXH3-64 over a sample's members, the JSON, then each picture in order: 4 µs for a picture of 183 KB.

    It finds every accident and is 25 times as fast as SHA-256, so that each reading can afford it.
    """
    whole = xxhash.xxh3_64()
    for content in contents:
        whole.update(content)
    return whole.intdigest()


def content_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a member."""
    handle = tar.extractfile(member)
    assert handle is not None, f"{member.name} is not a plain file"
    return handle.read()
