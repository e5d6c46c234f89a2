"""Every sample once in random order, raw bytes: ours beside webdataset with shuffle(1000), MosaicML streaming, litdata.

All hold the same samples, a JPEG of 183 KB in the mean and a small JSON. CPU time counts all threads and children.
Cold: the files' pages are dropped before (posix_fadvise); warm: every file was read once before.
"""

import argparse
import io
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import shards_peers
from memory import AnonymousMemory
from PIL import Image
from shards_figures import Figure, in_own_process
from webdataset.writer import TarWriter

from phi3v_dist.config.options import CatalogOptions, ColumnOptions
from phi3v_dist.console import say

_PER_TAR = 1000
_PICTURES = 64  # different ones; each sample takes one of them
_COLUMNS = ColumnOptions(category="category", price="price", currency="currency")


def measure(work: Path, arguments: argparse.Namespace) -> list[Figure]:
    """Make the data where it is missing, and read it in every way, in turn."""
    folders = {"ours": work / "tars", "webdataset": work / "tars"}
    _make_tars(work / "tars", arguments.samples)
    for name, make in shards_peers.MAKERS.items():
        if not (work / name / "done").exists():
            answer = in_own_process(make, work / "tars", work / name)
            if answer is not None:
                say(f"{name} is left out: {answer}")
                continue
            (work / name / "done").touch()
        folders[name] = work / name
    found: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    for _ in range(arguments.repeats):
        for name, folder in folders.items():
            for state in ("cold", "warm"):
                prepare = _drop if state == "cold" else _read_through
                prepare(folder)
                answer = in_own_process(_timed, name, folder)
                if isinstance(answer, str):
                    say(f"{name}, {state}: {answer}")
                else:
                    assert answer[2] == arguments.samples, f"{name} read {answer[2]} samples"
                    found.setdefault((name, state), []).append(answer)
    memory = {name: in_own_process(_memory, name, folder) for name, folder in folders.items()}
    held = [
        Figure(f"{name}, memory at most", most, "MB RssAnon")
        for name, most in memory.items()
        if isinstance(most, float)
    ]
    return [*_figures(found), *held]


def _figures(found: dict[tuple[str, str], list[tuple[float, float, int]]]) -> Iterator[Figure]:
    """The quickest wall time and the least CPU time of each."""
    rate = {way: max(count / wall for wall, _, count in runs) for way, runs in found.items()}
    cpu = {way: min(seconds / count * 1e6 for _, seconds, count in runs) for way, runs in found.items()}
    for way in found:
        name, state = way
        yield Figure(f"{name}, {state}", rate[way], "samples/s")
        yield Figure(f"{name}, {state}", cpu[way], "µs CPU per sample",
                     most=60 if way == ("ours", "warm") else None)  # fmt: skip
    for (name, state), other in rate.items():
        if name != "ours":
            least = {"warm": 2.5, "cold": 0.9}[state] if name == "webdataset" else 1.0
            yield Figure(f"ours ÷ {name}, {state}", rate["ours", state] / other, "times", least=least)


def _samples(name: str, folder: Path) -> Iterator:
    ways: dict[str, Callable[[Path], Iterator]] = {"ours": _ours, "webdataset": _webdataset, **shards_peers.READERS}
    return ways[name](folder)


def _memory(name: str, folder: Path) -> float:
    """The most of RssAnon, in MB, while going through all samples; that before opening isn't counted."""
    _samples(name, folder)  # what is imported isn't counted either
    with AnonymousMemory() as memory:
        for _ in _samples(name, folder):
            pass
    return memory.most_mb


def _timed(name: str, folder: Path) -> tuple[float, float, int]:
    """Wall and CPU seconds to go through all samples, and how many they were; opening is not counted."""
    samples = _samples(name, folder)
    wall, cpu, count = time.monotonic(), _cpu_seconds(), 0
    for _ in samples:
        count += 1
    return time.monotonic() - wall, _cpu_seconds() - cpu, count


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _ours(folder: Path) -> Iterator:
    from phi3v_dist.shards.index import load_index
    from phi3v_dist.shards.read import ShardReader

    index = load_index(folder)
    order = np.random.default_rng(0).permutation(len(index)).tolist()
    return ShardReader(index).samples(order)


def _webdataset(folder: Path) -> Iterator:
    import webdataset

    tars = sorted(map(str, folder.rglob("*.tar")))
    return iter(webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(1000))


def _make_tars(folder: Path, count: int) -> None:
    from phi3v_dist.shards.adopt import adopt_tars

    if (folder / "manifest.json").exists():
        return
    random = np.random.default_rng(0)
    pictures = []
    for side in np.linspace(294, 658, _PICTURES).astype(int):
        stream = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "JPEG", quality=85)
        pictures.append(stream.getvalue())
    (folder / "train").mkdir(parents=True, exist_ok=True)
    for first in range(0, count, _PER_TAR):
        with TarWriter(str(folder / f"train/train-{first // _PER_TAR:06d}.tar"), encoder=False, mtime=0) as tar:
            for number in range(first, min(count, first + _PER_TAR)):
                told = {"category": "Bags", "currency": "EUR", "price": 12.5, "product_code": f"P{number:08d}",
                        "title": f"Leather bag {number}"}  # fmt: skip
                picture = pictures[random.integers(_PICTURES)]
                tar.write({"__key__": told["product_code"], "00.jpg": picture, "json": json.dumps(told).encode()})
    assert adopt_tars(folder, CatalogOptions(columns=_COLUMNS), None, skip=False).written


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _drop(folder: Path) -> None:
    os.sync()
    for path in _files(folder):
        with open(path, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_through(folder: Path) -> None:
    for path in _files(folder):
        with open(path, "rb") as handle:
            while handle.read(2**24):
                pass
