"""The page of a data set: what a shard folder holds, what became of every row of its tables, what was left out.

Enters: a finished shard folder, and the model folder that the texts' tokens are counted with. Leaves: ``report.html``
in it, one file that needs no other. Numbers come from manifest and index; tar files are opened for a few dozen
thumbnails alone, so that a million products take seconds and the page stays small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phi3v_dist.config.options import RunConfig
from phi3v_dist.documents.length_tables import length_tables
from phi3v_dist.documents.prompt import format_price
from phi3v_dist.images import ImageError
from phi3v_dist.reports.charts import Chart, draw_histogram
from phi3v_dist.reports.page import write_page
from phi3v_dist.reports.rejected import reject_tiles
from phi3v_dist.reports.thumbnails import thumbnail
from phi3v_dist.shards.index import ShardIndex, as_numpy, load_index
from phi3v_dist.shards.look import spread
from phi3v_dist.shards.manifest import SPLITS, read_manifest
from phi3v_dist.shards.read import DamagedSample, ShardReader
from phi3v_dist.shards.statistics import (
    QUANTILE_NAMES,
    Values,
    histogram,
    picture_values,
    price_rows,
    quantile_rows,
    text_values,
)

_MOST_SAMPLES, _MOST_REJECTS = 24, 48  # tiles
_MOST_CATEGORIES = 40
_MOST_CURRENCIES = 4  # that get a chart
_MOST_BARS = 24
_HALF, _BROAD = (4.4, 2.3), (9.2, 2.6)  # inches of a chart


@dataclass(frozen=True)
class Section:
    """A heading, what is to be known of it, its charts, and count, mean and quantiles of what they show."""

    title: str
    note: str
    charts: Sequence[Chart]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class CategoryRow:
    """Products of a category by split, and how long its bar is beside the longest one's (percent)."""

    name: str
    train: int
    heldout: int
    percent: float

    @property
    def heldout_share(self) -> float:
        """0 to 1."""
        return self.heldout / (self.train + self.heldout)


@dataclass(frozen=True)
class SampleTile:
    """A product as it lies in the shards; ``picture``: data URI, None where it is damaged and ``why`` says how."""

    number: int
    split: str
    title: str
    category: str
    price: str
    picture: str | None
    why: str


def write_dataset_report(folder: Path, config: RunConfig | None = None) -> Path:
    """Write ``report.html`` into the shard folder and return its path. ``config``: of the run whose model counts texts.

    Raises ``ShardError`` when the folder isn't whole, and ``DocumentError`` when the model folder can't be used.
    """
    manifest, index = read_manifest(folder), load_index(folder)
    return write_page(
        folder,
        "dataset.html",
        facts=_facts(manifest, index),
        ledger=_ledger(manifest),
        origins=_origins(manifest),
        **_categories(index),
        sections=[_prices(index), _pictures(index), _texts(index), _documents(index, config)],
        quantile_names=QUANTILE_NAMES,
        samples=_sample_tiles(index),
        rejects=reject_tiles(folder, manifest, _MOST_REJECTS),
        num_rejects=manifest["rejects"]["count"],
    )


def _facts(manifest: dict[str, Any], index: ShardIndex) -> list[tuple[str, str]]:
    counts, tars = manifest["counts"], manifest["shards"]
    facts = [("products", f"{len(index):,}"), *((split, f"{counts[split]:,}") for split in SPLITS)]
    facts += [
        ("held-out share", f"{counts['heldout'] / max(1, len(index)):.1%}"),
        ("pictures", f"{index.picture_sizes[0][-1]:,}"),
        ("categories", f"{len({name for _, name, _ in index.category_counts()}):,}"),
        ("tar files", f"{len(tars):,}"),
        ("bytes", _bytes(sum(tar["bytes"] for tar in tars))),
        ("rejected", f"{manifest['rejects']['count']:,}"),
        ("deliveries", f"{len(manifest.get('deliveries', [])) or 'none'}"),
    ]
    return facts


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _ledger(manifest: dict[str, Any]) -> list[tuple[str, int, str]]:
    """(what became of it, how many, share) of every row that came in; the last line is their sum."""
    if "adopted" in manifest:
        total, unit = manifest["adopted"]["rows"], "samples in the tar files"
    else:
        total, unit = sum(delivery["rows"] for delivery in manifest["deliveries"]), "rows of all tables"
    reasons = sorted(manifest["rejects"]["by_reason"].items(), key=lambda pair: (-pair[1], pair[0]))
    # A tar file that can't be read is no sample, though it stands among the rejects.
    lines = [*((f"{split} products", manifest["counts"][split]) for split in SPLITS)]
    lines += [(f"rejected: {reason}", count) for reason, count in reasons if not reason.startswith("tar: ")]
    if missing := total - sum(count for _, count in lines):
        lines.append(("not accounted for", missing))
    return [(words, count, f"{count / max(1, total):.2%}") for words, count in [*lines, (unit, total)]]


def _origins(manifest: dict[str, Any]) -> list[tuple[str, int, str]]:
    """(name, rows, SHA-256) of each delivery's table; none of tar files that others made."""
    deliveries = manifest.get("deliveries", [])
    return [(delivery["table"], delivery["rows"], delivery["table_sha256"]) for delivery in deliveries]


def _categories(index: ShardIndex) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    for split, category, count in index.category_counts():
        counts.setdefault(category, {})[split] = count
    rows = sorted(
        ((name, each.get("train", 0), each.get("heldout", 0)) for name, each in counts.items()),
        key=lambda row: (-row[1] - row[2], row[0]),
    )
    most = max((train + heldout for _, train, heldout in rows), default=1)
    return {
        "categories": [CategoryRow(*row, 100 * (row[1] + row[2]) / most) for row in rows[:_MOST_CATEGORIES]],
        "further_categories": [
            sum(column) for column in zip(*(row[1:] for row in rows[_MOST_CATEGORIES:]), strict=True)
        ],
        "num_categories": len(rows),
        "never_trained": sum(train == 0 for _, train, _ in rows),
        "never_heldout": sum(heldout == 0 for _, _, heldout in rows),
    }


def _prices(index: ShardIndex) -> Section:
    prices, currencies = as_numpy(index.array("price")), index.array("currency")
    names, codes = currencies.dictionary.to_pylist(), as_numpy(currencies.indices)
    counts = np.bincount(codes, minlength=len(names))
    frequent = [place for place in np.argsort(-counts, kind="stable")[:_MOST_CURRENCIES].tolist() if counts[place]]
    charts = _charts([(f"Price ({names[place] or 'no currency'})", prices[codes == place], "") for place in frequent])
    note = f"{len(names)} currencies, the {len(charts)} most frequent drawn." if len(names) > len(charts) else ""
    return Section("Prices", f"Bars count products. {note}", charts, _rows(price_rows(index)))


def _pictures(index: ShardIndex) -> Section:
    measured = picture_values(index)
    return Section(
        "Pictures",
        "Pixels after the EXIF turn, as training sees them. Bars count pictures; the first chart's, products.",
        *_drawn(measured),
    )


def _texts(index: ShardIndex) -> Section:
    measured = {f"{name} (characters)": values for name, values in text_values(index).items()}
    empty = [f"{name.partition(' ')[0]}: {len(index) - len(values):,}" for name, values in measured.items()
             if len(values) < len(index)]  # fmt: skip
    note = f"Products without one: {', '.join(empty)}." if empty else "Every product has all of them."
    return Section("Texts", note, *_drawn(measured))


def _documents(index: ShardIndex, config: RunConfig | None) -> Section:
    if config is None:
        note = "Tokens of the pictures alone; with --config RECIPE its model counts the texts too."
        tables = length_tables(index, None, RunConfig().documents)
    else:
        note = f"Tokens of whole documents, texts counted by {config.model.folder}."
        tables = length_tables(index, config.model.folder, config.documents)
    measured = {}
    for told in tables:
        measured[f"tokens of a product, at most {told.num_crops} crops a picture"] = told.tokens
        measured[f"crops of a product, at most {told.num_crops} a picture"] = told.crops
    sums = " and ".join(f"{told.tokens.sum():,} tokens with at most {told.num_crops} crops" for told in tables)
    return Section("Documents", f"{note} In all {sums}.", *_drawn(measured))


def _drawn(measured: Mapping[str, Values]) -> tuple[list[Chart], list[tuple[str, ...]]]:
    """A chart and a row of each; names end with their unit in brackets."""
    titles = [
        (name.partition(" (")[0], values, name.partition(" (")[2].rstrip(")")) for name, values in measured.items()
    ]
    charts = _charts([(title[0].upper() + title[1:], values, unit) for title, values, unit in titles])
    return charts, _rows(quantile_rows(measured))


def _charts(drawn: Sequence[tuple[str, Values, str]]) -> list[Chart]:
    """Charts of title, values, unit, in pairs; the first of an odd number has a line of its own."""
    drawn = [(title, values, unit) for title, values, unit in drawn if len(values)]
    return [
        draw_histogram(
            title,
            histogram(values, _MOST_BARS, log_if_wide=True),
            unit,
            inches=_BROAD if place == 0 and len(drawn) % 2 else _HALF,
        )
        for place, (title, values, unit) in enumerate(drawn)
    ]


def _rows(rows: Sequence[tuple[Any, ...]]) -> list[tuple[str, ...]]:
    return [(name, f"{count:,}", *map(_short, numbers)) for name, count, *numbers in rows]


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def _sample_tiles(index: ShardIndex) -> list[SampleTile]:
    numbers = spread(index, _MOST_SAMPLES)
    tiles = []
    for number, sample in zip(numbers, ShardReader(index).samples(numbers), strict=True):
        row, picture, why = index.row(number), None, ""
        try:
            if isinstance(sample, DamagedSample):
                raise ImageError(f"damaged: {sample.reason}")
            picture = thumbnail(sample.images[0])
        except ImageError as error:
            why = error.reason
        price = f"{format_price(row['price'])} {row['currency']}".strip()
        tiles.append(SampleTile(number, row["split"], row["title"], row["category"], price, picture, why))
    return tiles
