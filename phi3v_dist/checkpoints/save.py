"""Engine state → a checkpoint that is complete or does not exist.

Enters: a DeepSpeed engine at the end of a step, on every rank. Leaves: ``checkpoints/step-N`` (layout: choose.py) and
the seconds and bytes it took. First the free space is held against the prediction. Then everything is written beside
and flushed by the rank that wrote it (on a cluster's file system no other can), the marker last, then the folder gets
its name; only then are older checkpoints deleted. Whatever fails before leaves them as they are, and at most a
``.step-N.partial`` that the next save clears away.

Those that stay are known by their marker and sizes: a resume, which reads every byte, puts aside what is damaged.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from phi3v_dist.checkpoints.choose import (
    ENGINE,
    MARKER,
    Checkpoint,
    WrittenFile,
    checkpoints_folder,
    complete_checkpoints,
    outdated,
)
from phi3v_dist.checkpoints.space import need_space, predicted_bytes
from phi3v_dist.cluster.process_group import from_all_ranks, together
from phi3v_dist.errors import PASSING, CheckpointError, LostDiskError
from phi3v_dist.files import fsync_folder, write_json


@dataclass(frozen=True)
class Saved:
    """What a save took."""

    folder: Path
    seconds: float
    written_bytes: int


def save_checkpoint(
    engine: Any,
    run_folder: str | Path,
    *,
    step: int,
    trained_on: dict[str, str],
    longest_document: int,
    keep_last: int,
    keep_best: int = 0,
    validation_loss: float | None = None,
    unreported: dict[str, float] | None = None,
) -> Saved:
    """Save on every rank; return when the checkpoint is durable. For the words see ``Checkpoint``.

    Raises ``CheckpointError``, alike on every rank, for a disk that is too full or fails.
    """
    started = time.monotonic()
    folder = checkpoints_folder(run_folder) / f"step-{step}"
    partial = folder.with_name(f".{folder.name}.partial")
    is_rank_0 = dist.get_rank() == 0
    need_bytes = sum(from_all_ranks(predicted_bytes(engine)))
    together(lambda: _make_room(partial, need_bytes) if is_rank_0 else None)
    files = _write(engine, partial)
    told = {
        "step": step,
        "num_ranks": dist.get_world_size(),
        "trained_on": trained_on,
        "longest_document": longest_document,
        "validation_loss": validation_loss,
        "unreported": unreported,
        "files": {name: asdict(file) for name, file in files.items()},
        "seconds": time.monotonic() - started,
    }
    together(lambda: _finish(partial, folder, told, keep_last, keep_best) if is_rank_0 else None)
    return Saved(folder, time.monotonic() - started, sum(file.bytes for file in files.values()))


def tell_reported(checkpoint: Checkpoint, validation_loss: float | None) -> None:
    """Write into a checkpoint's marker that its step has been reported since, with its validation.

    Raises ``CheckpointError`` for a disk that is full or fails; the marker is then as it was.
    """
    marker = checkpoint.folder / MARKER
    with _disk_faults(marker):
        told = json.loads(marker.read_text(encoding="utf-8"))
        write_json(marker, {**told, "validation_loss": validation_loss, "unreported": None})


def _make_room(partial: Path, need_bytes: int) -> None:
    with _disk_faults(partial.parent):
        partial.parent.mkdir(parents=True, exist_ok=True)
        for pattern in (".step-*.partial", ".step-*.universal"):  # of saves and conversions that were cut off
            for left_over in partial.parent.glob(pattern):
                shutil.rmtree(left_over)
        need_space(partial.parent, need_bytes, "the next checkpoint")
        partial.mkdir()


def _write(engine: Any, partial: Path) -> dict[str, WrittenFile]:
    """Let DeepSpeed write this rank's files; return those of all ranks."""
    from phi3v_dist.checkpoints.writer import HashingWriter  # here alone: it imports DeepSpeed

    writer = HashingWriter(partial)
    before, engine.checkpoint_engine = engine.checkpoint_engine, writer
    try:
        with _disk_faults(partial, on_every_rank=False):  # what escapes the writer, this rank alone has met
            engine.save_checkpoint(str(partial), tag=ENGINE, save_latest=False)
    finally:
        engine.checkpoint_engine = before
    together(lambda: _check(writer, partial))
    return {name: file for written in from_all_ranks(writer.written) for name, file in written.items()}


def _check(writer: Any, partial: Path) -> None:
    with _disk_faults(partial):
        if writer.fault is not None:
            raise writer.fault
        if dist.get_rank() == 0:
            writer.add_small_files()


def _finish(partial: Path, folder: Path, told: dict[str, Any], keep_last: int, keep_best: int) -> None:
    with _disk_faults(partial):
        for inner in (partial / ENGINE, partial):
            fsync_folder(inner)
        write_json(partial / MARKER, told)
        if folder.exists():
            _hide(folder)
        partial.rename(folder)
        fsync_folder(folder.parent)
        for old in outdated(complete_checkpoints(folder.parent.parent), keep_last, keep_best):
            _hide(old.folder)
        for hidden in folder.parent.glob(".step-*.old.partial"):
            shutil.rmtree(hidden)


def _hide(folder: Path) -> None:
    """Take its name from a checkpoint before it is deleted: a deletion that is cut off leaves no half one."""
    folder.rename(folder.with_name(f".{folder.name}.old.partial"))


@contextmanager
def _disk_faults(folder: Path, *, on_every_rank: bool = True) -> Iterator[None]:
    """Make a ``CheckpointError`` of what the disk says no to."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        fault = (LostDiskError if error.errno in PASSING else CheckpointError)(
            f"rank {dist.get_rank()} can't write a checkpoint: {error.strerror or error}",
            where=str(where),
            mend="Mend the disk or its permissions, and start again from the checkpoint before, which is untouched.",
        )
        fault.on_every_rank = on_every_rank
        raise fault from None
