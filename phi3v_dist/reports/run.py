"""The page of one run: curves, scores beside baselines, held-out pictures with truth and answer.

Enters: a folder with ``train/metrics.jsonl``, ``train/config.yaml``, and when they exist ``evaluation.json``,
``predictions.jsonl`` and ``shards/``: finished files only. Leaves: ``report.html`` in it, one file that needs no other.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3v_dist.errors import RunError
from phi3v_dist.reports.charts import Chart, Curve, draw_chart
from phi3v_dist.reports.page import write_page
from phi3v_dist.reports.tiles import tiles_of
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.tracking.metrics import METRICS_FILE, compare_replayed, read_metrics

_MOST_TILES = 48

Metrics = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class _ScoreName:
    name: str
    words: str
    form: str


_SCORES = (
    _ScoreName("category_accuracy", "right category", "{:.1%}"),
    _ScoreName("title_exact", "exact title", "{:.1%}"),
    _ScoreName("title_word_f1", "title word F1", "{:.3f}"),
    _ScoreName("price_median_relative_error", "median price error", "{:.1%}"),
    _ScoreName("price_mean_relative_error", "mean price error", "{:.1%}"),
    _ScoreName("parsed_share", "answers that parse", "{:.1%}"),
)


def write_run_report(folder: Path) -> Path:
    """Write ``report.html`` into ``folder`` and return its path.

    Raises ``RunError`` when ``train/metrics.jsonl`` has no step or a file can't be read. A missing evaluation is said
    on the page.
    """
    metrics = read_metrics(folder / "train" / METRICS_FILE)
    if not metrics:
        raise RunError(
            "no steps to report", where=str(folder / "train" / METRICS_FILE), mend="Train first: launch/train.py."
        )
    return write_page(
        folder,
        "run.html",
        facts=_facts(folder, metrics),
        charts=_charts(metrics),
        **_scores(folder / "evaluation.json"),
        **_tiles(folder),
        config=_text(folder / "train" / "config.yaml"),
    )


def _facts(folder: Path, metrics: Metrics) -> list[tuple[str, str]]:
    facts = [("steps", f"{len(metrics):,}")]
    for name, title, form in (("tokens", "tokens", "{:,.0f}"), ("step_seconds", "minutes in steps", "{:,.1f}")):
        values = _curve(metrics, name).values
        if values:
            facts.append((title, form.format(sum(values) / (60 if name == "step_seconds" else 1))))
    facts += [
        (title, f"{curve.values[-1]:.4f}")
        for title, curve in (
            ("last loss", _curve(metrics, "loss")),
            ("last validation", _curve(metrics, "validation_loss")),
        )
        if curve.values
    ]
    count, different = compare_replayed(folder / "train")
    if count:
        same = "all losses equal" if not different else f"{len(different)} losses differ"
        facts.append(("steps done again after a kill", f"{count}: {same}"))
    return facts


def _charts(metrics: Metrics) -> list[Chart]:
    loss = _curve(metrics, "loss", "training", noisy=True), _curve(metrics, "validation_loss", "validation")
    small = (4.4, 2.1)
    return [
        draw_chart("Loss (nats per supervised token)", loss, inches=(9.2, 3.2)),
        *(
            draw_chart(title, [_curve(metrics, name, noisy=noisy)], from_zero=True, inches=small)
            for title, name, noisy in (
                ("Throughput (tokens/s)", "tokens_per_second", True),
                ("Learning rate", "learning_rate", False),
                ("Gradient norm before clipping", "gradient_norm", True),
                ("Median price error of generated answers", "price_error_median", False),
            )
            if _curve(metrics, name).values
        ),
    ]


def _curve(metrics: Metrics, name: str, words: str | None = None, noisy: bool = False) -> Curve:
    points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
    return Curve(words or name, [step for step, _ in points], [value for _, value in points], noisy)


def _scores(path: Path) -> dict[str, Any]:
    """Cards and table of scores; none when the run was not evaluated."""
    text = _text(path)
    if text is None:
        return {"evaluated": None, "rows": []}
    evaluation = _json(text, path)
    columns = [evaluation, *(evaluation["baseline"][name] for name in ("most_frequent_category", "category_median"))]
    rows = [(score.words, *(score.form.format(column[score.name]) for column in columns)) for score in _SCORES]
    return {"evaluated": f"{evaluation['count']:,} products of {evaluation['split']}", "rows": rows}


def _tiles(folder: Path) -> dict[str, Any]:
    path = folder / "predictions.jsonl"
    predictions = [_json(line, path) for line in (_text(path) or "").splitlines()]
    shards = folder / "shards"
    reader = ShardReader(load_index(shards)) if predictions and shards.is_dir() else None
    return {"tiles": tiles_of(predictions, reader, _MOST_TILES), "predictions": len(predictions)}


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RunError("not JSON", where=str(path), value=text[:80], mend="Run tools/evaluate.py again.") from error
