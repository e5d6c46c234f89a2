"""Finding pictures that look alike among ``--rows``: time, memory, whether planted ones are found and others aren't.

Pictures are drawn as their fingerprints, 16 × 16 colours: a product of 2 × 2 to 5 × 5 patches of colour on a white
page, at a random place and in a random size. One in a hundred is a copy of another, one in a hundred the same saved
again: 0.1 to 0.5 % of its contrast away, as pictures saved at quality 50 or at half the size are (the limit is 1 %).
Truth for chance likenesses: some pictures are compared with all.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from memory import AnonymousMemory
from shards_figures import Figure, in_own_process

from phi3v_dist.catalog.likeness import FINGERPRINT_BYTES, SIDE, clusters_that_look_alike, look_alike
from phi3v_dist.mapped_arrays import arrays_in

_PLANTED_SHARE = 0.01  # of copies, and as many saved again
_AT_A_TIME = 20_000
_COMPARED_WITH_ALL = 200


def measure(work: Path, arguments: argparse.Namespace) -> list[Figure]:
    """Draw fingerprints, cluster them in a fresh process, compare with what was planted."""
    path = work / f"fingerprints-{arguments.rows}.npy"
    planted = int(arguments.rows * _PLANTED_SHARE)
    if not path.exists():
        _draw(path, arguments.rows, planted)
    answer = in_own_process(_cluster, path)
    assert not isinstance(answer, str), answer
    seconds, memory_mb, labels = answer
    fingerprints = np.load(path, mmap_mode="r")
    copies, again = slice(-2 * planted, -planted), slice(-planted, None)
    found = {name: (labels[part] == labels[:planted]).mean() for name, part in (("copies", copies), ("again", again))}
    sizes = np.bincount(labels)
    by_chance = (sizes[labels[2 * planted : -2 * planted]] > 1).mean()
    truly, missed = _compare_with_all(fingerprints, labels)
    rows = f"{arguments.rows:,} pictures"
    return [
        Figure(f"clusters of {rows}", seconds, "s"),
        Figure("memory, at most", memory_mb, "MB RssAnon"),
        Figure("memory, at most", memory_mb * 1e6 / arguments.rows, "bytes per picture"),
        Figure(f"{planted:,} copies found", 100 * found["copies"], "%", least=100),
        Figure(f"{planted:,} saved again found", 100 * found["again"], "%", least=99.5),
        Figure("of the others, in a cluster by chance", 100 * by_chance, "%"),
        Figure("largest cluster", int(sizes.max()), "pictures"),
        Figure(f"alike among {_COMPARED_WITH_ALL} compared with all", truly, "pairs"),
        Figure("of these in different clusters", missed, "pairs"),
    ]


def _cluster(path: Path) -> tuple[float, float, np.ndarray]:
    fingerprints = np.load(path, mmap_mode="r")
    with AnonymousMemory() as memory:
        started = time.monotonic()
        labels = clusters_that_look_alike(fingerprints, arrays_in(path.parent))
        seconds = time.monotonic() - started
    return seconds, memory.most_mb, labels


def _compare_with_all(fingerprints: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """Pairs that look alike of some pictures and all others; how many of them aren't in one cluster."""
    chosen = np.linspace(0, len(labels) // 2, _COMPARED_WITH_ALL).astype(int)
    asked = fingerprints[chosen].astype(np.float32)
    most = 0.02 * FINGERPRINT_BYTES * asked.var(1) + FINGERPRINT_BYTES  # wider than what looks alike
    truly = missed = 0
    for start in range(0, len(labels), _AT_A_TIME):
        block = fingerprints[start : start + _AT_A_TIME].astype(np.float32)
        distance = np.square(block).sum(1)[:, None] + np.square(asked).sum(1) - 2 * block @ asked.T
        others, which = np.nonzero(distance <= most)
        others, keep = others + start, others + start != chosen[which]
        others, which = others[keep], which[keep]
        alike = look_alike(fingerprints[others], fingerprints[chosen[which]])
        truly += int(alike.sum())
        missed += int((labels[others[alike]] != labels[chosen[which[alike]]]).sum())
    return truly, missed


def _draw(path: Path, rows: int, planted: int) -> None:
    """The first ``planted`` are those that the last 2 × ``planted`` show again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    drawn = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, FINGERPRINT_BYTES))
    for start in range(0, rows - 2 * planted, _AT_A_TIME):
        stop = min(rows - 2 * planted, start + _AT_A_TIME)
        drawn[start:stop] = np.stack([_page(random) for _ in range(stop - start)]).reshape(stop - start, -1)
    originals = np.array(drawn[:planted])
    drawn[-2 * planted : -planted] = originals
    noise = random.normal(size=originals.shape) * np.sqrt(random.uniform(0.001, 0.005, (planted, 1)))
    drawn[-planted:] = np.clip(np.round(originals + noise * originals.std(1, keepdims=True)), 0, 255)
    drawn.flush()


def _page(random: np.random.Generator) -> np.ndarray:
    page = np.full((SIDE, SIDE, 3), 255, np.uint8)
    width, height = random.integers(6, SIDE + 1, 2)
    left, top = random.integers(0, SIDE - width + 1), random.integers(0, SIDE - height + 1)
    patches = random.integers(0, 256, (*random.integers(2, 6, 2), 3), dtype=np.uint8)
    down, right = (np.arange(side) * count // side for side, count in zip((height, width), patches.shape, strict=False))
    page[top : top + height, left : left + width] = patches[down[:, None], right]
    return page
