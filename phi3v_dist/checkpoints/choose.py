"""Which folders are checkpoints, and which one a run goes on from.

::

    checkpoints/
      step-200/
        engine/…             what DeepSpeed writes: one optimizer and one model file per rank
        COMPLETE.json        the marker, written last: step, ranks, bytes of every file, what was trained on
      .step-400.partial/     a save that was cut off: not a checkpoint

Enters: a run folder. Leaves: complete checkpoints. A folder is a checkpoint if and only if ``read_marker`` says so.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3v_dist.console import log

MARKER = "COMPLETE.json"
ENGINE = "engine"  # DeepSpeed's tag


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: ``step`` steps are done in it, ``num_ranks`` wrote it.

    ``trained_on``: fingerprints of what the run reads, by the option that names it. ``longest_document`` of the run in
    tokens, None in checkpoints written before it was recorded.
    """

    folder: Path
    step: int
    num_ranks: int
    trained_on: dict[str, str]
    longest_document: int | None = None


def checkpoints_folder(run_folder: str | Path) -> Path:
    """Where a run's checkpoints lie."""
    return Path(run_folder) / "checkpoints"


def read_marker(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in ``folder``, or None (with a log line when a marked one is damaged)."""
    try:
        told: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in told["files"]}
        differing = [name for name, size in sizes.items() if size != told["files"][name]]
        checkpoint = Checkpoint(
            folder, told["step"], told["num_ranks"], dict(told["trained_on"]), told.get("longest_document")
        )
    except FileNotFoundError as error:
        if (folder / MARKER).exists():
            log.warning("%s is no checkpoint: %s is missing", folder, error.filename)
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is no checkpoint: its marker can't be read (%s)", folder, error)
        return None
    if differing:
        log.warning("%s is no checkpoint: %s has another size than when it was written", folder, differing[0])
        return None
    return checkpoint


def complete_checkpoints(run_folder: str | Path) -> list[Checkpoint]:
    """All complete checkpoints of a run, oldest first."""
    folders = checkpoints_folder(run_folder).glob("step-*")
    # not a user's own copy such as step-200-before-the-change, which must not be deleted as an old one
    found = (read_marker(folder) for folder in folders if folder.name.removeprefix("step-").isdecimal())
    return sorted((c for c in found if c is not None), key=lambda c: c.step)


def newest_checkpoint(run_folder: str | Path) -> Checkpoint | None:
    """The checkpoint that a run goes on from, or None for a new run."""
    return next(reversed(complete_checkpoints(run_folder)), None)
