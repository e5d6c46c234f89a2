"""Metric names with units, and ``metrics.jsonl``: each step of a run stands there once, also after a kill.

Enters: the metrics of one step. Leaves: one flushed JSON line per step. A run that goes on from a checkpoint does some
steps again; the lines of those steps move to ``metrics.replayed.jsonl`` before the first new line is written, so that
the file stays one curve and the second doing can be compared with the first.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from phi3v_dist.errors import RunError
from phi3v_dist.files import write_text

METRICS_FILE = "metrics.jsonl"
REPLAYED_FILE = "metrics.replayed.jsonl"

# Every name that may be logged, with its unit. ``step`` and ``time`` (Unix seconds) are added to each line.
METRICS = {
    "loss": "nats per supervised token, of this step",
    "learning_rate": "of this step's update",
    "gradient_norm": "L2, before clipping",
    "tokens_per_second": "tokens/s over all ranks, blank packs left out",
    "model_tflops_per_second": "TFLOP/s over all ranks, as costs.py counts: causal half, nothing twice, no blank packs",
    "step_seconds": "s from the end of the last step to the end of this one",
    "data_wait_share": "share of step_seconds spent waiting for packs",
    "tokens": "tokens of this step's packs",
    "supervised_tokens": "tokens of this step that the loss is taken on",
    "documents": "documents of this step's packs",
    "packs": "packs of this step",
    "damaged_samples": "samples of this epoch so far whose picture could not be read",
    "epoch": "passes over the training split so far",
    "checkpoint_seconds": "s that the checkpoint between the last step and this one took, where there was one",
    "validation_loss": "nats per supervised token, held-out packs",
    "validation_seconds": "s that this validation took",
    "price_error_mean": "mean of |answer - truth| / truth, generated answers",
    "price_error_median": "median of |answer - truth| / truth, generated answers",
    "category_accuracy": "share of generated answers with the true category",
    "title_exact": "share of generated answers with exactly the true title",
    "title_word_f1": "mean F1 of the title's words, generated answers",
    "parsed_share": "share of generated answers that parse",
}


class MetricsFile:
    """Backend that appends one line per step to ``metrics.jsonl`` in the run folder."""

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder
        self._handle: TextIO | None = None

    def log_step(self, step: int, metrics: dict[str, float]) -> None:
        """Append the line of ``step``; the first call moves lines of this and later steps away (``rewind``).

        Raises ``RunError``, also in the other methods, when the file can't be written.
        """
        with self._writing():
            if self._handle is None:
                rewind(self._run_folder, step - 1)
                self._handle = open(self._run_folder / METRICS_FILE, "a", encoding="utf-8")  # noqa: SIM115
            self._handle.write(_line({"step": step, "time": round(time.time(), 3), **metrics}))
            self._handle.flush()

    def make_durable(self) -> None:
        """Bring all lines to the disk."""
        if self._handle is not None:
            with self._writing():
                os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Make the lines durable and close the file."""
        self.make_durable()
        if self._handle is not None:
            with self._writing():
                self._handle.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            failed = RunError(
                f"the metrics can't be written: {error.strerror}",
                where=str(self._run_folder / METRICS_FILE),
                mend="Make room or mend the disk; the same command goes on from the last checkpoint.",
            )
            failed.on_every_rank = False  # only rank 0 writes
            raise failed from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file in order; none when it is missing. A torn last line is left out.

    Raises ``RunError`` when a whole line is not JSON with a ``step``.
    """
    if not path.exists():
        return []
    # A line torn by a kill has no newline: what follows the last newline is never a whole line.
    whole_lines = path.read_bytes().split(b"\n")[:-1]
    return [_parse(line, path, number) for number, line in enumerate(whole_lines, start=1)]


def rewind(run_folder: Path, step: int) -> int:
    """Move lines of steps above ``step`` to ``metrics.replayed.jsonl``; return how many. Also drops a torn last line.

    The lines are appended there before they leave ``metrics.jsonl``: a kill in between doubles lines in the replayed
    file, which compares equal, and loses none.
    """
    metrics_path, replayed_path = run_folder / METRICS_FILE, run_folder / REPLAYED_FILE
    lines = read_metrics(metrics_path)
    kept = [line for line in lines if line["step"] <= step]
    moved = [line for line in lines if line["step"] > step]
    if moved:
        _write_lines(replayed_path, [*read_metrics(replayed_path), *moved])
    if metrics_path.exists():
        _write_lines(metrics_path, kept)
    return len(moved)


def compare_replayed(run_folder: Path) -> tuple[int, list[int]]:
    """Return how many steps were done again, and those of them whose loss differs in any bit between two doings."""
    final = {line["step"]: line.get("loss") for line in read_metrics(run_folder / METRICS_FILE)}
    replayed = [line for line in read_metrics(run_folder / REPLAYED_FILE) if line["step"] in final]
    different = {line["step"] for line in replayed if line.get("loss") != final[line["step"]]}
    return len({line["step"] for line in replayed}), sorted(different)


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
        int(parsed["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            "not a line of metrics",
            where=f"{path}:{number}",
            value=line[:80].decode("utf-8", "replace"),
            mend="Delete the line.",
        ) from error
    return parsed


def _line(values: dict[str, Any]) -> str:
    # JSON has no NaN: readers in other languages would stop at the first one.
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_text(path, "".join(_line(line) for line in lines))
