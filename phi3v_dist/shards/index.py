"""The index: for each sample its place in a tar file, its picture sizes and its texts.

Enters: finished tar files (when shards are made), later ``index.parquet``. Leaves: a ``ShardIndex`` that knows every
sample by its number 0..n-1, so that shuffling, packing and resuming are arithmetic on numbers. Offsets are taken
from the tar file as ``tarfile`` reads it back: a long name or a float clock adds headers, so "header + 512" would
be wrong without a word. No torch in here.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phi3v_dist.errors import ShardError
from phi3v_dist.files import atomic_path, sha256_of
from phi3v_dist.images import image_size
from phi3v_dist.shards.manifest import MAKE_ANEW, MAKE_THEM, read_manifest

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
        ("sha256", pa.string()),  # of the JSON's bytes and then each picture's
    ]
)
_SHARD_SCHEMA = SCHEMA.remove(0)
_ROWS_IN_GROUP = 65_536  # so many rows of the index are in memory when it is written


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """All samples of a shard folder; ``table`` has the columns of ``SCHEMA``, row number = sample number."""

    folder: Path
    table: pa.Table
    index_hash: str

    def __len__(self) -> int:
        return self.table.num_rows

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader process reads the file again (0.5 s for a million samples) instead of receiving 234 MB.
        return load_index, (self.folder,)

    def numbers(self, split: str) -> np.ndarray:
        """Sample numbers of a split, int64 [n], rising."""
        return np.flatnonzero(self.column("split") == split).astype(np.int64)

    def column(self, name: str) -> np.ndarray:
        """One flat column as numpy, [n]; texts as objects."""
        return self.table[name].to_numpy()

    def row(self, number: int) -> dict[str, Any]:
        """All columns of one sample as Python values. Raises ``IndexError`` for a number that doesn't exist."""
        return {name: column[number].as_py() for name, column in zip(SCHEMA.names, self._columns, strict=True)}

    def sizes(self, number: int) -> list[tuple[int, int]]:
        """Width and height of each picture of a sample, pixels after the EXIF turn."""
        starts, widths, heights = self.picture_sizes
        part = slice(starts[number], starts[number + 1])
        return list(zip(widths[part].tolist(), heights[part].tolist(), strict=True))

    @cached_property
    def picture_sizes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``starts`` int64 [n+1], ``widths``, ``heights`` int32 [pictures]: sample i owns starts[i]:starts[i+1]."""
        starts = np.zeros(len(self) + 1, np.int64)
        np.cumsum(pc.list_value_length(self.table["width"]).to_numpy(), out=starts[1:])
        flat = [self.table[name].combine_chunks().flatten().to_numpy() for name in ("width", "height")]
        return starts, flat[0], flat[1]

    def category_counts(self) -> list[tuple[str, str, int]]:
        """(split, category, samples), sorted."""
        counts = self.table.group_by(["split", "category"]).aggregate([("sample", "count")])
        return sorted((row["split"], row["category"], row["sample_count"]) for row in counts.to_pylist())

    @cached_property
    def _columns(self) -> list[pa.Array]:
        return [self.table[name].combine_chunks() for name in SCHEMA.names]


def index_shard(folder: Path, shard: str, split: str) -> pa.Table:
    """Read a finished tar file back; the index rows of its samples in order, without the column ``sample``."""
    with tarfile.open(folder / shard) as tar:
        rows = [_sample_row(tar, key, members, shard, split) for key, members in _samples(tar)]
    return pa.Table.from_pylist(rows, schema=_SHARD_SCHEMA)


def write_index(path: Path, before: pa.Table | None, parts: Iterable[pa.Table]) -> None:
    """Number the samples of all shards, behind those that were there ``before``, and write the index."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        pending, count = [SCHEMA.empty_table() if before is None else before], 0 if before is None else len(before)
        for part in parts:
            numbers = pa.array(np.arange(count, count + len(part), dtype=np.int64))
            pending.append(part.add_column(0, SCHEMA.field("sample"), numbers))
            count += len(part)
            if sum(map(len, pending)) >= _ROWS_IN_GROUP:
                writer.write_table(pa.concat_tables(pending).combine_chunks())
                pending = []
        if pending:
            writer.write_table(pa.concat_tables(pending).combine_chunks())


def load_index(folder: str | Path) -> ShardIndex:
    """The index of a finished shard folder.

    Raises ``ShardError`` when manifest or index are missing or damaged, or a tar file is missing or has another size
    (contents are checked sample by sample when read, and all at once by ``tools/inspect_shards.py --verify``).
    """
    folder = Path(folder).absolute()
    manifest = read_manifest(folder)
    for shard in manifest["shards"]:
        check_file(folder, shard)
    return open_index(folder, manifest)


def open_index(folder: Path, manifest: dict[str, Any]) -> ShardIndex:
    """The index alone, checked against the manifest's hash. Raises ``ShardError``."""
    check_file(folder, manifest["index"])
    path, index_hash = folder / manifest["index"]["path"], manifest["index"]["sha256"]
    if (found := sha256_of(path)) != index_hash:
        raise ShardError("the index is damaged, its SHA-256 is not the manifest's", where=str(path), value=found,
                         mend=MAKE_ANEW)  # fmt: skip
    table = pq.read_table(path, schema=SCHEMA, memory_map=False).combine_chunks()
    return ShardIndex(folder, table, index_hash)


def check_file(folder: Path, told: dict[str, Any]) -> None:
    """Raise ``ShardError`` unless the file is there with the size that the manifest tells."""
    path = folder / told["path"]
    if not path.is_file():
        raise ShardError("a file of the manifest is missing", where=str(path), mend=f"Copy it back. Or: {MAKE_THEM}")
    if (found := path.stat().st_size) != told["bytes"]:
        raise ShardError(f"{told['bytes']} bytes expected", where=str(path), value=found, mend=MAKE_ANEW)


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(key, suffix → member), in the order of the tar file; members of a sample lie side by side."""
    key = ""
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        new_key, _, suffix = member.name.partition(".")
        if new_key != key and members:
            yield key, members
            members = {}
        key, members[suffix] = new_key, member
    if members:
        yield key, members


def _sample_row(
    tar: tarfile.TarFile, key: str, members: dict[str, tarfile.TarInfo], shard: str, split: str
) -> dict[str, Any]:
    text = members["json"]
    pictures = [members[suffix] for suffix in sorted(members) if suffix != "json"]
    text_bytes = _content(tar, text)
    contents = [_content(tar, picture) for picture in pictures]
    sizes = [image_size(content) for content in contents]
    told = json.loads(text_bytes)
    return told | {
        "further": json.dumps(told["further"], sort_keys=True, ensure_ascii=False),
        "shard": shard,
        "key": key,
        "split": split,
        "json_offset": text.offset_data,
        "json_bytes": text.size,
        "image_offset": [picture.offset_data for picture in pictures],
        "image_bytes": [picture.size for picture in pictures],
        "width": [width for width, _ in sizes],
        "height": [height for _, height in sizes],
        "sha256": content_hash([text_bytes, *contents]),
    }


def content_hash(contents: list[bytes]) -> str:
    """Hexadecimal SHA-256 over a sample's members: the JSON, then each picture in order."""
    whole = hashlib.sha256()
    for content in contents:
        whole.update(content)
    return whole.hexdigest()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(member)
    assert handle is not None, f"{member.name} is not a plain file"
    return handle.read()
