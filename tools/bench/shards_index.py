"""Opening the index of a million samples: the first time, with its decoded copy there, and in a loader process.

RssAnon is the memory that a process has for itself; pages of the mapped copy are the node's, shared and given back.
"""

import argparse
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from memory import AnonymousMemory
from shards_figures import Figure, in_own_process

from phi3v_dist.files import write_json
from phi3v_dist.shards.index import SHARD_SCHEMA, load_index, write_index
from phi3v_dist.shards.manifest import MANIFEST_NAME, SCHEMA_VERSION, describe_file
from phi3v_dist.shards.read import ShardReader

_PER_TAR = 1000


def measure(work: Path, arguments: argparse.Namespace) -> list[Figure]:
    """Make an index of ``--rows`` samples and open it in fresh processes; the quickest of the repeats."""
    rows = arguments.rows
    if not (work / MANIFEST_NAME).exists():
        make_index(work, rows)
    first, with_copy, mapped = [], [], []
    for _ in range(arguments.repeats):
        shutil.rmtree(work / "cache", ignore_errors=True)
        first.append(in_own_process(_open, work))
        with_copy.append(in_own_process(_open, work))
        mapped.append(in_own_process(_map, with_copy[-1][2]))
    copy = sum(path.stat().st_size for path in (work / "cache").rglob("*.arrow")) / 1e6
    return [
        Figure(f"index.parquet, {rows:,} samples", (work / "index.parquet").stat().st_size / 1e6, "MB"),
        Figure("its decoded copy", copy, "MB"),
        Figure("open the first time, making the copy", min(told[0] for told in first), "s"),
        Figure("memory then, at most", max(told[1] for told in first), "MB RssAnon", most=200),
        Figure("open with the copy there", min(told[0] for told in with_copy), "s", most=0.3),
        Figure("memory then, at most", max(told[1] for told in with_copy), "MB RssAnon", most=200),
        Figure("index and reader in a loader process", min(told[0] for told in mapped) * 1000, "ms", most=20),
        Figure("memory then, at most", max(told[1] for told in mapped), "MB RssAnon"),
    ]


def make_index(folder: Path, rows: int) -> None:
    """A shard folder of ``rows`` samples with index and manifest, and no tar file."""
    random = np.random.default_rng(0)

    def part(first: int) -> pa.Table:
        number = np.arange(first, min(rows, first + _PER_TAR))
        count, place = len(number), number % _PER_TAR
        lists = {"image_offset": place * 186_000, "image_bytes": random.integers(50_000, 300_000, count),
                 "width": random.integers(300, 2000, count), "height": random.integers(300, 2000, count)}  # fmt: skip
        shard = first // _PER_TAR
        columns = {
            "shard": [f"train/train-{shard:06d}.tar"] * count,
            "key": [f"P{n:09d}" for n in number],
            "split": ["heldout" if shard % 20 == 19 else "train"] * count,
            "product_code": [f"P{n:09d}" for n in number],
            "title": [f"Small leather bag number {n} in colour {n % 97}" for n in number],
            "category": [f"Category/{n}" for n in random.integers(0, 300, count)],
            "price": np.round(random.lognormal(5, 1, count), 2),
            "currency": ["EUR"] * count,
            "further": ["{}"] * count,
            "json_offset": place * 186_000 + 184_000,
            "json_bytes": random.integers(90, 200, count),
            **{name: [[value] for value in values] for name, values in lists.items()},
            "xxh3": random.integers(0, 2**63, count, dtype=np.uint64),
        }
        return pa.table(columns).select(SHARD_SCHEMA.names).cast(SHARD_SCHEMA)

    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder / "index.parquet", (part(first) for first in range(0, rows, _PER_TAR)))
    told = {"schema_version": SCHEMA_VERSION, "shards": [], "index": describe_file(folder, "index.parquet")}
    write_json(folder / MANIFEST_NAME, told)


def _open(folder: Path) -> tuple[float, float, bytes]:
    """Seconds, MB of own memory at most, and the reader as a loader process would get it."""
    with AnonymousMemory() as memory:
        started = time.monotonic()
        index = load_index(folder, folder / "cache")
        seconds = time.monotonic() - started
    return seconds, memory.most_mb, pickle.dumps(ShardReader(index))


def _map(told: bytes) -> tuple[float, float]:
    with AnonymousMemory() as memory:
        started = time.monotonic()
        reader = pickle.loads(told)
        seconds = time.monotonic() - started
    assert len(reader.index)
    return seconds, memory.most_mb
