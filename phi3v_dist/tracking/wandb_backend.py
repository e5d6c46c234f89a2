"""Weights & Biases: metrics, and after each validation a table of pictures with truth and answer.

Enters: metrics and predictions of rank 0. Leaves: a W&B run under ``wandb/`` in the run folder. Offline by default:
``wandb sync RUN_FOLDER/wandb/offline-run-*`` uploads it later. One run id is kept in the run folder, so that a run
that was killed and goes on stays one run on the server. A server that does not answer costs half a minute at the
start and at the end, never the run: what it would have got stays in the offline files.
"""

import os
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from phi3v_dist.console import log
from phi3v_dist.files import write_text
from phi3v_dist.tracking.predictions import ShownPrediction, small_picture

RUN_ID_FILE = "wandb-run-id"
_LONGEST_ANSWER_SECONDS = 30.0

Mode = Literal["online", "offline", "disabled"]


class WandbBackend:
    """One W&B run. Any method may raise when W&B does: the tracker guards each call."""

    def __init__(self, mode: Mode, run_folder: Path, project: str, name: str, config: dict[str, Any]) -> None:
        import wandb

        # W&B copies a table's pictures to its data folder, in the user's home unless told otherwise. In the run's own
        # folder they survive until a later sync, on a cluster whose compute nodes see another home too.
        os.environ.setdefault("WANDB_DATA_DIR", str(run_folder.absolute() / "wandb" / "data"))
        self._wandb = wandb
        told = {"id": _run_id(run_folder), "dir": run_folder, "project": project, "name": name, "config": config}
        try:
            self._run = wandb.init(**told, resume="allow", mode=mode, settings=_settings(wandb))
        except Exception as error:
            if mode != "online":
                raise
            reason = str(error).replace("\n", " ")
            log.warning("Weights & Biases can't be reached, its files are kept for `wandb sync`: %s", reason)
            wandb.teardown()  # the service would still hold the run id
            self._run = wandb.init(**told, resume="allow", mode="offline", settings=_settings(wandb))

    def log_step(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of ``step``. Steps that the server already has are left out there."""
        # With a step given, W&B keeps it open until a later one comes: a table of the same step joins it.
        self._run.log(metrics, step=step)

    def log_predictions(self, step: int, predictions: Sequence[ShownPrediction]) -> None:
        """Log a table ``predictions`` with columns picture, truth, prediction."""
        table = self._wandb.Table(columns=["picture", "truth", "prediction"])
        for shown in predictions:
            picture = self._wandb.Image(small_picture(shown.picture), file_type="jpg")
            table.add_data(picture, shown.truth, shown.answer)
        self._run.log({"predictions": table}, step=step)

    def close(self) -> None:
        """Write what is left and end the run. Raises ``TimeoutError`` when W&B doesn't come to an end."""
        finishing = threading.Thread(target=self._run.finish, name="W&B finish", daemon=True)
        finishing.start()
        finishing.join(_LONGEST_ANSWER_SECONDS)
        if finishing.is_alive():
            raise TimeoutError(f"no end after {_LONGEST_ANSWER_SECONDS:.0f} s; `wandb sync` uploads its files later")


def _settings(wandb: Any) -> Any:
    """Quiet; and lines reach the run file within a second, where W&B would hold 15 s of them back from a kill -9."""
    settings = wandb.Settings(silent=True, console="off", init_timeout=_LONGEST_ANSWER_SECONDS)
    if hasattr(settings, "x_transaction_log_flush_interval"):  # older releases have no such setting
        settings.x_transaction_log_flush_interval = 1.0
    return settings


def _run_id(run_folder: Path) -> str:
    path = run_folder / RUN_ID_FILE
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text(encoding="utf-8").strip()
