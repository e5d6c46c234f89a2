"""Which folders are checkpoints, which one is taken, and which are kept.

::

    checkpoints/
      step-200/
        engine/…             what DeepSpeed writes: one optimizer and one model file per rank
        COMPLETE.json        the marker, written last: step, ranks, what was trained on, bytes and SHA-256 of every file
      .step-400.partial/     a save that was cut off: not a checkpoint
      .step-200.universal/   a copy for another number of ranks, while it is loaded: not a checkpoint
      step-300.damaged/      put aside by a resume that had to fall back: not a checkpoint

Enters: a run folder. Leaves: checkpoints, and what is damaged with the reason. A folder is a checkpoint if and only if
``read_marker`` says so; whether the content of its files is still what was written, verify.py tells.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi3v_dist.errors import CheckpointError

MARKER = "COMPLETE.json"
ENGINE = "engine"  # DeepSpeed's tag


@dataclass(frozen=True)
class WrittenFile:
    """A file of a checkpoint as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: ``step`` steps are done in it, ``num_ranks`` wrote it in ``seconds``.

    ``trained_on``: fingerprints of what the run reads, by the option that names it. ``longest_document`` of the run in
    tokens. ``validation_loss``: after this step, None where none was measured. ``unreported``: this step's metrics,
    which wait for its validation, which was broken off. ``files``: by name inside ``folder``.
    """

    folder: Path
    step: int
    num_ranks: int
    trained_on: dict[str, str]
    longest_document: int | None = None
    seconds: float = 0.0
    validation_loss: float | None = None
    unreported: dict[str, float] | None = None
    files: Mapping[str, WrittenFile] = field(default_factory=dict)

    @property
    def written_bytes(self) -> int:
        """What its files take on disk, without the marker."""
        return sum(file.bytes for file in self.files.values())


@dataclass(frozen=True)
class Damage:
    """A folder that should be a checkpoint and isn't, and why."""

    folder: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.folder} is no checkpoint: {self.reason}"


def checkpoints_folder(run_folder: str | Path) -> Path:
    """Where a run's checkpoints lie."""
    return Path(run_folder) / "checkpoints"


def read_marker(folder: Path) -> Checkpoint | Damage:
    """Return the checkpoint in ``folder``: its marker is whole, every file is there and has the size it had."""
    try:
        checkpoint = _as_told(folder, json.loads((folder / MARKER).read_text(encoding="utf-8")))
        sizes = {name: (folder / name).stat().st_size for name in checkpoint.files}
    except FileNotFoundError as error:
        return Damage(folder, f"{Path(error.filename).relative_to(folder)} is missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Damage(folder, f"its marker {MARKER} can't be read ({error!r})")
    for name, size in sizes.items():
        if size != checkpoint.files[name].bytes:
            return Damage(folder, f"{name} has {size} bytes, {checkpoint.files[name].bytes} were written")
    return checkpoint


def _as_told(folder: Path, told: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        folder,
        step=int(told["step"]),
        num_ranks=int(told["num_ranks"]),
        trained_on=dict(told["trained_on"]),
        longest_document=told["longest_document"],
        seconds=float(told["seconds"]),
        validation_loss=told["validation_loss"],
        unreported=told.get("unreported"),
        files={name: WrittenFile(int(file["bytes"]), str(file["sha256"])) for name, file in told["files"].items()},
    )


def survey(run_folder: str | Path) -> list[Checkpoint | Damage]:
    """Every ``step-N`` of a run, oldest first: a checkpoint, or why it is none."""
    folders = checkpoints_folder(run_folder).glob("step-*")
    # not a user's own copy such as step-200-before-the-change, which must not be deleted as an old one
    numbered = {int(number): folder for folder in folders if (number := folder.name.removeprefix("step-")).isdecimal()}
    return [read_marker(numbered[step]) for step in sorted(numbered) if numbered[step].is_dir()]


def complete_checkpoints(run_folder: str | Path) -> list[Checkpoint]:
    """All complete checkpoints of a run, oldest first."""
    return [found for found in survey(run_folder) if isinstance(found, Checkpoint)]


def newest_checkpoint(run_folder: str | Path) -> Checkpoint | None:
    """The checkpoint that a run goes on from if its content is whole, or None for a new run."""
    return next(reversed(complete_checkpoints(run_folder)), None)


def outdated(checkpoints: Sequence[Checkpoint], keep_last: int, keep_best: int) -> list[Checkpoint]:
    """Those of ``checkpoints`` (oldest first) that need not stay: neither among the last nor among the best."""
    kept = [*checkpoints[-keep_last:], *best_first(checkpoints)[:keep_best]]
    return [checkpoint for checkpoint in checkpoints if checkpoint not in kept]


def best_first(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Those with a validation loss, the lowest first; of equal ones the newer."""
    told = [(c, c.validation_loss) for c in checkpoints]
    measured = [(loss, -c.step, c) for c, loss in told if loss is not None and math.isfinite(loss)]
    return [checkpoint for *_, checkpoint in sorted(measured, key=lambda entry: entry[:2])]


def in_order_of_choice(run_folder: str | Path, wanted: str) -> list[Checkpoint | Damage]:
    """What to take for "newest", "best" or the number of a step: the first that is whole, the others in its place.

    Raises ``CheckpointError`` where there is nothing to choose from.
    """
    found = survey(run_folder)
    if wanted == "newest":
        choice = found[::-1]
    elif wanted == "best":
        choice = [*best_first(c for c in found if isinstance(c, Checkpoint))]
    else:
        choice = [c for c in found if c.folder.name == f"step-{wanted}"]
    if not choice:
        there = ", ".join(c.folder.name for c in found) or "none"
        raise CheckpointError(
            "no complete checkpoint in this run" if wanted == "newest" else f"no checkpoint is its {wanted}",
            where=str(run_folder),
            value=f"{there}",
            mend="Name a run folder that has trained, and newest, best (of those after a validation) or a step there.",
        )
    return choice
