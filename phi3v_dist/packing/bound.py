"""How full packs of given documents can be at best, whatever the algorithm.

Enters: lengths, the budget of a pack. Leaves: an upper bound of the fill. It is the cutting-stock problem's linear
relaxation, solved by column generation (Gilmore and Gomory 1961): a column is a way to fill one pack, a knapsack over
the dual prices finds a better one. Farley's bound (1990) is right after each round, so the search may stop early and
stays true. Lengths are counted in classes, each of its shortest length: packs of shorter documents are never more.
"""

import math
import time
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from phi3v_dist.packing.subset import Numbers, compiled

_MOST_CLASSES = 400
_GOOD_ENOUGH = 0.0005  # of the packs: no target is finer
_MOST_TOKENS = 65_536  # beyond, packs of many documents come to 100 % and each knapsack takes long


def fill_bound(lengths: Numbers, pack_tokens: int, packs: Iterable[Numbers] = (), *, most_seconds: float = 10) -> float:
    """Upper bound of the share of all packs that can hold tokens, at most 1.

    ``lengths`` int [documents], none above ``pack_tokens``; ``packs``: lengths in some good packs, where the search
    begins. The time is spent only where a bound below 1 can be found.
    """
    tokens = int(lengths.sum(dtype=np.int64))
    if pack_tokens > _MOST_TOKENS or not len(lengths):
        return 1.0
    classes, counts, unit = _classes(lengths)
    fewest = _fewest_packs(classes, counts, pack_tokens, _columns(classes, packs, unit, pack_tokens), most_seconds)
    whole = math.ceil(fewest - 1e-6)
    return min(1.0, tokens / (whole * pack_tokens))


def _classes(lengths: Numbers) -> tuple[Numbers, NDArray[np.float64], int]:
    """Lengths rounded down to a multiple of a unit, so that there are few; how many of each; the unit."""
    unit = 1
    while len(np.unique(lengths // unit)) > _MOST_CLASSES:
        unit *= 2
    classes, counts = np.unique(np.maximum(lengths // unit * unit, 1), return_counts=True)
    return classes.astype(np.int64), counts.astype(np.float64), unit


def _columns(classes: Numbers, packs: Iterable[Numbers], unit: int, pack_tokens: int) -> NDArray[np.float64]:
    """Ways to fill a pack [classes, ways]: with one class alone, and the ways of ``packs``."""
    alone = np.diag(pack_tokens // classes).astype(np.float64)
    rounded = (np.maximum(np.asarray(pack) // unit * unit, 1) for pack in packs)
    ways = [np.bincount(np.searchsorted(classes, pack), minlength=len(classes)) for pack in rounded]
    return np.concatenate([alone, np.unique(np.array(ways, float).reshape(-1, len(classes)), axis=0).T], axis=1)


def _fewest_packs(
    classes: Numbers, counts: NDArray[np.float64], pack_tokens: int, columns: NDArray[np.float64], most_seconds: float
) -> float:
    end = time.monotonic() + most_seconds
    fewest = float(classes @ counts) / pack_tokens
    while True:
        solved = linprog(np.ones(columns.shape[1]), A_ub=-columns, b_ub=-counts, method="highs")
        prices = -solved.ineqlin.marginals
        worth, ways = _knapsack(classes, prices, pack_tokens)
        fewest = max(fewest, solved.fun / max(worth, 1.0))
        if worth <= 1 + _GOOD_ENOUGH or time.monotonic() > end:
            return fewest
        columns = np.concatenate([columns, np.unique(ways, axis=0).T], axis=1)


@compiled
def _knapsack(classes, prices, room):  # type: ignore[no-untyped-def]
    """Fillings of ``room`` at these prices: what the best is worth, and the best with each class [fillings, classes].

    Those that are worth no more than 1 are left out, the linear program has as good ones.
    """
    best = np.zeros(room + 1)
    last = np.full(room + 1, -1)
    for size in range(1, room + 1):
        best[size] = best[size - 1]
        for number in range(len(classes)):
            if classes[number] > size:
                break
            worth = best[size - classes[number]] + prices[number]
            if worth > best[size] + 1e-12:
                best[size] = worth
                last[size] = number
    ways = np.zeros((len(classes), len(classes)))
    found = 0
    for first in range(len(classes)):
        size = room - classes[first]
        if prices[first] + best[size] > 1 + 1e-9:
            ways[found, first] = 1
            while size > 0:
                if last[size] < 0:
                    size -= 1
                else:
                    ways[found, last[size]] += 1
                    size -= classes[last[size]]
            found += 1
    return best[room], ways[:found]
