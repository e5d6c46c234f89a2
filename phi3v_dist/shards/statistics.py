"""What a shard folder holds, in numbers: from index and manifest alone, no tar file is opened.

Enters: a ``ShardIndex``. Leaves: rows for tables: samples by split and category, prices by currency, sizes and bytes of
pictures, each as count and quantiles.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.compute as pc

from phi3v_dist.shards.index import ShardIndex, as_numpy

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
QUANTILE_NAMES = ("least", "5 %", "median", "95 %", "most")

Row = tuple[str, int, *tuple[float, ...]]


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


def picture_rows(index: ShardIndex) -> list[Row]:
    """What is measured, how many, mean and quantiles: pictures of a product, their sides and shapes, their bytes."""
    starts, widths, heights = index.picture_sizes
    megabytes = as_numpy(index.array("image_bytes").flatten()) / 1e6
    measured = {
        "pictures of a product": np.diff(starts),
        "width (pixels)": widths,
        "height (pixels)": heights,
        "size (megapixels)": widths.astype(np.int64) * heights / 1e6,
        "width ÷ height": widths / np.maximum(heights, 1),
        "file (MB)": megabytes,
    }
    return [_row(name, values) for name, values in measured.items() if len(values)]


def _row(name: str, values: np.ndarray) -> Row:
    return name, len(values), float(values.mean()), *(float(value) for value in np.quantile(values, QUANTILES))


def histogram_rows(values: np.ndarray, most_bins: int = 12, width: int = 40) -> Iterator[tuple[str, int, str]]:
    """(range of values, how many, a bar) of whole numbers; every value of its own where there are few different ones.

    Empty ranges are left out.
    """
    if not len(values):
        return
    found = np.unique(values)
    if len(found) <= most_bins:
        edges = [*found.tolist(), int(found[-1]) + 1]
    else:
        edges = _round_edges(int(found[0]), int(found[-1]), most_bins)
    counts, _ = np.histogram(values, edges)
    for first, after, count in zip(edges, edges[1:], counts.tolist(), strict=False):
        if count:
            own = len(found) <= most_bins
            name = f"{first:,}" if own else f"{first:,} to {after - 1:,}"
            yield name, count, "█" * max(1, round(width * count / max(counts)))


def _round_edges(least: int, most: int, most_bins: int) -> Sequence[int]:
    """Edges at multiples of 1, 2 or 5 times a power of ten, from ``least`` to above ``most``."""
    step = 1
    while (most // step - least // step + 1) > most_bins:
        step = step * 2 if str(step)[0] in "15" else step * 5 // 2
    return list(range(least // step * step, (most // step + 1) * step + 1, step))
