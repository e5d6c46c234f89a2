"""One tracker for the training loop, whatever is told to whom.

Enters: metrics of each step and predictions of each validation, on every rank. Leaves: the files and runs of the
backends, on rank 0 alone; elsewhere a tracker has no backends, so that the loop has no branch on rank. A failing
backend never reaches the loop: its first failure is one warning, then it is off.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from phi3v_dist.config.options import TrackingOptions
from phi3v_dist.console import log
from phi3v_dist.errors import UserError
from phi3v_dist.tracking.console_backend import ConsoleBackend
from phi3v_dist.tracking.metrics import METRICS, MetricsFile
from phi3v_dist.tracking.predictions import PredictionFiles, ShownPrediction
from phi3v_dist.tracking.tensorboard_backend import TensorboardBackend
from phi3v_dist.tracking.wandb_backend import WandbBackend


class Tracker:
    """Tells every backend, which has any of these methods too. A ``UserError`` of the metrics file comes through."""

    def __init__(self, backends: Sequence[object]) -> None:
        self._backends = list(backends)

    def log_step(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of ``step``, validation values merged in; call it once per step. Names: ``METRICS``."""
        unknown = sorted(set(metrics) - set(METRICS))
        assert not unknown, f"metrics without a unit in tracking/metrics.py: {unknown}"
        self._tell("log_step", step, metrics)

    def log_predictions(self, step: int, predictions: Sequence[ShownPrediction]) -> None:
        """Show generated answers beside their pictures and truths."""
        self._tell("log_predictions", step, predictions)

    def make_durable(self) -> None:
        """Bring to the disk what a checkpoint must not be ahead of."""
        self._tell("make_durable")

    def close(self) -> None:
        """Write what is left; the tracker is done."""
        self._tell("close")
        self._backends = []

    def _tell(self, method: str, *values: object) -> None:
        self._backends = [backend for backend in self._backends if _guarded(backend, method, values)]


def start_tracking(
    options: TrackingOptions,
    run_folder: Path,
    config: dict[str, Any],
    *,
    total_steps: int,
    first_step: int,
    is_rank_0: bool,
) -> Tracker:
    """Return the tracker of this rank. ``first_step``: the step that is logged first, 1 in a new run.

    ``config``: the effective configuration, shown by W&B. Raises ``ConfigError`` when TensorBoard is asked for and
    not installed; a W&B that can't start is a warning.
    """
    if not is_rank_0:
        return Tracker([])
    run_folder.mkdir(parents=True, exist_ok=True)
    backends: list[object] = [
        MetricsFile(run_folder),
        PredictionFiles(run_folder),
        ConsoleBackend(options.console_every, first_step, total_steps),
    ]
    if options.tensorboard:
        backends.append(TensorboardBackend(run_folder, first_step))
    if options.wandb != "disabled":
        backends.extend(_start_wandb(options, run_folder, config))
    return Tracker(backends)


def _start_wandb(options: TrackingOptions, run_folder: Path, config: dict[str, Any]) -> list[WandbBackend]:
    name = options.run_name or run_folder.absolute().name
    try:
        return [WandbBackend(options.wandb, run_folder, options.project, name, config)]
    except Exception as error:
        log.warning("Weights & Biases did not start, the run goes on without it: %s", _one_line(error))
        return []


def _guarded(backend: object, method: str, values: tuple[object, ...]) -> bool:
    """Call the backend's method if it has one; return whether it may be called again."""
    call: Callable[..., None] | None = getattr(backend, method, None)
    if call is None:
        return True
    try:
        call(*values)
    except UserError:
        raise  # the metrics file is no side-show: without it a run could not tell what it did
    except Exception as error:
        name = type(backend).__name__
        log.warning("%s failed in %s and is off from here on: %s", name, method, _one_line(error))
        return False
    return True


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")
