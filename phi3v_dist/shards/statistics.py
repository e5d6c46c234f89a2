"""What a shard folder holds, in numbers: from index and manifest alone, no tar file is opened.

Enters: a ``ShardIndex``. Leaves: rows for tables (samples by split and category; prices by currency, pictures and texts
as count and quantiles), the measured values themselves, and histograms of them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count as count_from

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from phi3v_dist.shards.index import ShardIndex, as_numpy

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
QUANTILE_NAMES = ("least", "5 %", "median", "95 %", "most")
_WIDE = 50  # most ÷ least, above which a scale of equal steps would show one bar

Row = tuple[str, int, *tuple[float, ...]]
Values = NDArray[np.number]


@dataclass(frozen=True, eq=False)
class Histogram:
    """``counts`` int64 [bars] of the values from ``edges[i]`` to below ``edges[i + 1]``, float64 [bars + 1]; the last
    bar holds its upper edge too.

    ``own``: each bar is one value, its lower edge. ``log``: the edges grow by a factor. ``whole``: of whole numbers.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    own: bool = False
    log: bool = False
    whole: bool = False

    @property
    def names(self) -> list[str]:
        """What each bar holds, as a person would say it."""
        pairs = zip(self.edges.tolist(), self.edges[1:].tolist(), strict=False)
        if self.own:
            return [f"{first:,.15g}" for first, _ in pairs]
        if self.whole:
            ranges = [(int(first), int(after) - 1) for first, after in pairs]
            return [f"{first:,} to {last:,}" if first < last else f"{first:,}" for first, last in ranges]
        return [f"{_rounded(first)} to {_rounded(after)}" for first, after in pairs]


def _rounded(number: float) -> str:
    return f"{float(f'{number:.3g}'):,.15g}"  # three digits, and no exponent


def count_rows(index: ShardIndex) -> list[tuple[str, str, int]]:
    """(split, category, samples), then the sum of each split and of both."""
    counts = index.category_counts()
    sums = {split: sum(count for name, _, count in counts if name == split) for split, _, _ in counts}
    return [*counts, *((split, "all", count) for split, count in sums.items()), ("both", "all", len(index))]


def price_rows(index: ShardIndex) -> list[Row]:
    """Currency, samples, mean and quantiles of the price; one row per split and currency."""
    prices, splits, currencies = as_numpy(index.array("price")), index.array("split"), index.array("currency")
    rows = []
    for split in splits.dictionary.to_pylist():
        for currency in currencies.dictionary.to_pylist():
            chosen = pc.and_(pc.equal(splits, split), pc.equal(currencies, currency)).to_numpy(zero_copy_only=False)
            if chosen.any():
                rows.append(_row(f"{split}, {currency}", prices[chosen]))
    return sorted(rows)


def picture_values(index: ShardIndex) -> dict[str, Values]:
    """What is measured → its values: pictures of each product, and of each picture sides, shape and bytes."""
    starts, widths, heights = index.picture_sizes
    return {
        "pictures of a product": np.diff(starts),
        "width (pixels)": widths,
        "height (pixels)": heights,
        "size (megapixels)": widths.astype(np.int64) * heights / 1e6,
        "width ÷ height": widths / np.maximum(heights, 1),
        "file (kB)": as_numpy(index.array("image_bytes").flatten()) / 1e3,
    }


def picture_rows(index: ShardIndex) -> list[Row]:
    """What is measured of the pictures, how many, mean and quantiles."""
    return quantile_rows(picture_values(index))


def text_values(index: ShardIndex) -> dict[str, Values]:
    """Name of a text → its lengths (characters) where it isn't empty: title, category, ``further.NAME``."""
    lengths = {"title": as_numpy(pc.utf8_length(index.array("title")))}
    categories, further = index.array("category"), index.array("further")
    lengths["category"] = as_numpy(pc.utf8_length(categories.dictionary))[as_numpy(categories.indices)]
    # Each different text is read once; samples share them.
    found: dict[str, Values] = {}
    for place, text in enumerate(further.dictionary):
        for name, content in json.loads(text.as_py()).items():
            if name not in found:
                found[name] = np.zeros(len(further.dictionary), np.int32)
            found[name][place] = len(content)
    lengths |= {f"further.{name}": found[name][as_numpy(further.indices)] for name in sorted(found)}
    return {name: values[values > 0] for name, values in lengths.items()}


def quantile_rows(measured: Mapping[str, Values]) -> list[Row]:
    """What is measured, how many, mean and quantiles; nothing of what there is none of."""
    return [_row(name, values) for name, values in measured.items() if len(values)]


def _row(name: str, values: Values) -> Row:
    return name, len(values), float(values.mean()), *(float(value) for value in np.quantile(values, QUANTILES))


def histogram(values: Values, most_bars: int, *, log_if_wide: bool = False) -> Histogram:
    """Count values: every value of its own where there are few different ones, else between round edges.

    ``log_if_wide``: edges that grow by a factor where the values span more than 50-fold; whole numbers stay whole.
    """
    whole = bool(np.issubdtype(values.dtype, np.integer))
    found = np.unique(values)
    if len(found) <= most_bars:
        edges = np.append(found, found[-1:] + 1).astype(np.float64)
        counts = np.unique(values, return_counts=True)[1]
        return Histogram(edges, counts.astype(np.int64), own=True, whole=whole)
    least, most = found[0].item(), found[-1].item()
    log = log_if_wide and least > 0 and most > _WIDE * least
    edges = _growing_edges(least, most, most_bars, whole) if log else _round_edges(least, most, most_bars, whole)
    return Histogram(edges, np.histogram(values, edges)[0].astype(np.int64), log=log, whole=whole)


def histogram_rows(values: Values, most_bars: int = 12, width: int = 40) -> Iterator[tuple[str, int, str]]:
    """(range of values, how many, a bar) of whole numbers. Empty ranges are left out."""
    told = histogram(values, most_bars)
    for name, count in zip(told.names, told.counts.tolist(), strict=True):
        if count:
            yield name, count, "█" * max(1, round(width * count / told.counts.max()))


def _round_edges(least: float, most: float, most_bars: int, whole: bool) -> NDArray[np.float64]:
    """Edges at multiples of 1, 2 or 5 times a power of ten, from ``least`` to above ``most``."""
    finest = math.floor(math.log10((most - least) / most_bars))
    for power in count_from(max(0, finest) if whole else finest):
        for step in (1 * 10.0**power, 2 * 10.0**power, 5 * 10.0**power):
            first, last = math.floor(least / step), math.floor(most / step) + 1
            if last - first <= most_bars:
                edges = np.arange(first, last + 1) * step
                edges[0] = min(edges[0], least)  # 3 × 0.1 is more than 0.3
                return edges
    raise AssertionError("some step is wide enough")


def _growing_edges(least: float, most: float, most_bars: int, whole: bool) -> NDArray[np.float64]:
    """Edges by one factor, from ``least`` to ``most`` (whole numbers: to above it, and none twice)."""
    edges = np.geomspace(least, most + 1 if whole else most, most_bars + 1)
    edges[0], edges[-1] = least, most + 1 if whole else most
    return np.unique(np.round(edges)) if whole else edges
