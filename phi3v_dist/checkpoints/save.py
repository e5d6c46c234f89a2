"""Engine state → a checkpoint that is complete or does not exist.

Enters: a DeepSpeed engine at the end of a step, on every rank. Leaves: ``checkpoints/step-N`` (layout: choose.py) and
the seconds and bytes it took. Everything is written beside and flushed to disk, the marker last, then the folder gets
its name; only then are older checkpoints deleted.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from phi3v_dist.checkpoints.choose import ENGINE, MARKER, checkpoints_folder, complete_checkpoints
from phi3v_dist.files import fsync_file, fsync_folder, write_json


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
) -> Saved:
    """Save on every rank; return when the checkpoint is durable. For the words see ``Checkpoint``."""
    started = time.monotonic()
    folder = checkpoints_folder(run_folder) / f"step-{step}"
    partial = folder.with_name(f".{folder.name}.partial")
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(partial), tag=ENGINE, save_latest=False)
    dist.barrier()
    if rank == 0:
        told = {"step": step, "num_ranks": num_ranks, "trained_on": trained_on, "longest_document": longest_document}
        _finish(partial, folder, told)
        for old in complete_checkpoints(run_folder)[:-keep_last]:
            shutil.rmtree(old.folder)
    dist.barrier()
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Saved(folder, time.monotonic() - started, written)


def _finish(partial: Path, folder: Path, told: dict[str, object]) -> None:
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    for path in files:
        fsync_file(path)
    for inner in {path.parent for path in files}:
        fsync_folder(inner)
    sizes = {str(path.relative_to(partial)): path.stat().st_size for path in files}
    write_json(partial / MARKER, told | {"files": sizes})
    shutil.rmtree(folder, ignore_errors=True)  # a damaged one of this step, written before a resume
    partial.rename(folder)
    fsync_folder(folder.parent)
