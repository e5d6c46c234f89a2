"""One rank that saves checkpoints of a real engine on a disk of its own, and tells what it met.

Arguments: model folder, a folder whose disk may be filled, output file. One engine in float32 with a frozen vision
tower saves once; one in bf16 meets all else. Rank 0 writes what all ranks tell, and puts the run's folder beside.
"""

import errno
import json
import os
import resource
import shutil
import sys
from pathlib import Path

from phi3v_dist.checkpoints.choose import complete_checkpoints
from phi3v_dist.checkpoints.save import save_checkpoint
from phi3v_dist.checkpoints.space import predicted_bytes
from phi3v_dist.cluster.process_group import gather_on_rank_0, process_group
from phi3v_dist.cluster.who import who_am_i
from phi3v_dist.config.options import DocumentOptions, RunConfig
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.errors import CheckpointError, LostDiskError
from phi3v_dist.packing.collate import blank_batch
from phi3v_dist.training.step import forward

LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 2.5}
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
HALF_OF_A_FILE = 1_000_000


def saved(engine, run_folder, step, **options):
    """Seconds and bytes of a save, or the line of its error."""
    options = {"keep_last": 2, "keep_best": 1} | options
    try:
        done = save_checkpoint(engine, run_folder, step=step, trained_on={"a": "b"}, longest_document=7, **options)
    except (CheckpointError, LostDiskError) as error:
        return {"error": str(error), "alike": error.on_every_rank, "code": error.exit_code}
    return {"seconds": done.seconds, "bytes": done.written_bytes}


def names(run_folder):
    return sorted(path.name for path in (run_folder / "checkpoints").iterdir())


def kept(engine, run_folder):
    """Five saves; what is there after each."""
    told = []
    for step, loss in LOSSES.items():
        saved(engine, run_folder, step, validation_loss=loss)
        told.append(names(run_folder))
    return told


def failing(engine, run_folder, who):
    """One rank can't write more than a part of its file; then it can."""
    if who.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF_OF_A_FILE, resource.RLIM_INFINITY))
    told = {"failed": saved(engine, run_folder, 6), "left": names(run_folder)}
    resource.setrlimit(resource.RLIMIT_FSIZE, UNLIMITED)
    told["stale"] = stale(engine, run_folder, who)
    return told | {"again": saved(engine, run_folder, 6), "then": names(run_folder)}


def stale(engine, run_folder, who):
    """The server of one rank's file system forgets it in the save."""

    def fsync(_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    real = os.fsync
    if who.rank == 1:
        os.fsync = fsync
    told = saved(engine, run_folder, 6)
    os.fsync = real
    return told


def full(engine, run_folder, who):
    """The disk has less free than a checkpoint takes."""
    filler = run_folder / "filler"
    if who.is_rank_0:
        whole = complete_checkpoints(run_folder)[-1].written_bytes
        filler.write_bytes(b"0" * (shutil.disk_usage(run_folder).free - int(0.9 * whole)))
    told = {"refused": saved(engine, run_folder, 7), "left": names(run_folder)}
    if who.is_rank_0:
        filler.unlink()
    return told


def take_blank_step(engine, model_folder, dtype):
    """AdamW has no moments before a first step."""
    batch = blank_batch(DocumentProcessor.from_folder(model_folder, DocumentOptions()))
    engine.backward(forward(engine, batch, dtype), scale_wrt_gas=False)
    engine.step()


def build(model_folder, who, precision, train_vision):
    from phi3v_dist.training.backend import choose_backend
    from phi3v_dist.training.engine import build_engine

    training = {"device": "cpu", "precision": precision}
    model = {"folder": model_folder, "train_vision": train_vision}
    config = RunConfig.model_validate({"training": training, "model": model})
    backend = choose_backend(config, who)
    engine = build_engine(config, backend, who)
    take_blank_step(engine, model_folder, backend.dtype)
    return engine


def main():
    model_folder, disk, output = sys.argv[1:]
    who, run_folder = who_am_i(), Path(disk) / "run"
    with process_group(who, "gloo", 5):
        engine = build(model_folder, who, "fp32", train_vision=False)
        told = {"fp32": [predicted_bytes(engine), saved(engine, Path(disk) / "fp32", 1)]}
        engine = build(model_folder, who, "bf16", train_vision=True)
        told |= {"bf16": [predicted_bytes(engine), saved(engine, Path(disk) / "bf16", 1)]}
        told |= {"kept": kept(engine, run_folder), "failing": failing(engine, run_folder, who)}
        told |= {"full": full(engine, run_folder, who)}
        everyones = gather_on_rank_0(told, who)
        if everyones is not None:
            Path(output).write_text(json.dumps(everyones))
            shutil.copytree(run_folder, Path(output).with_suffix(".run"))


if __name__ == "__main__":
    main()
