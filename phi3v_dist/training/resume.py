"""What a start finds in its run folder: nothing, a run to go on with, or a finished one.

Enters: a run folder and the options of this start. Leaves: the step to go on from, and an engine that stands there.
A resume may change how a run works (workers, tracking, learning rate, its length), never what it means: data, order,
model. DeepSpeed restores neither frozen parameters nor each group's own values from a checkpoint of another size, so
the folder's weights are loaded first and the groups' values set again (facts: deepspeed.md).
"""

from pathlib import Path
from typing import Any

from phi3v_dist.checkpoints.choose import ENGINE, Checkpoint, newest_checkpoint
from phi3v_dist.config.loading import LoadedConfig, describe_config, difference, load_config
from phi3v_dist.errors import CheckpointError, RunError
from phi3v_dist.files import write_json, write_text

FINISHED = "FINISHED"
CONFIG = "config.yaml"
_MEANING = (
    "model.rope_mode",
    "model.train_vision",
    "documents",
    "packing.pack_tokens",
    "packing.packs_per_step",
    "packing.window_shards",
    "packing.pool_documents",
    "packing.choose_documents",
    "packing.long_documents",
    "training.seed",
    "training.precision",
)


def is_finished(run_folder: Path) -> bool:
    """Whether the run in this folder has taken its last step."""
    return (run_folder / FINISHED).exists()


def mark_finished(run_folder: Path, step: int) -> None:
    """Say that the run is over; a later start does nothing."""
    write_json(run_folder / FINISHED, {"step": step})


def find_checkpoint(loaded: LoadedConfig, trained_on: dict[str, str], num_ranks: int) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None. Raises ``CheckpointError`` when it belongs to another run."""
    run_folder = Path(loaded.config.run_folder)
    checkpoint = newest_checkpoint(run_folder)
    if checkpoint is None:
        return None
    if not (run_folder / CONFIG).is_file():
        raise CheckpointError(
            "the options of this run's first steps are gone, so a changed one would go unseen",
            where=str(run_folder / CONFIG),
            mend="Put the file back, or give another run_folder for a new run.",
        )
    changed = difference(load_config(run_folder / CONFIG).config, loaded.config, _MEANING)
    if changed:
        told = "; ".join(f"{key}: {old!r} → {new!r}" for key, old, new in changed)
        raise CheckpointError(
            f"this run has {checkpoint.step} steps with other options: {told}",
            where=str(run_folder),
            mend="Give the old values, or another run_folder for a new run.",
        )
    for option, before in checkpoint.trained_on.items():
        if trained_on[option] != before:
            raise CheckpointError(
                f"its content is not what this run was trained on: {before[:12]} → {trained_on[option][:12]} (SHA-256)",
                where=option,
                mend="Put the old content back, or give another run_folder for a new run.",
            )
    if checkpoint.num_ranks != num_ranks:
        raise CheckpointError(
            f"the checkpoint was written by {checkpoint.num_ranks} ranks",
            where=str(checkpoint.folder),
            value=f"{num_ranks} ranks",
            mend=f"Start with {checkpoint.num_ranks} ranks.",
        )
    return checkpoint


def open_run_folder(loaded: LoadedConfig) -> None:
    """Make the run folder: the effective configuration, and the link to the model folder that training begins from."""
    run_folder = Path(loaded.config.run_folder)
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the run folder can't be made: {error.strerror}"
        raise RunError(what, where=str(run_folder), mend="Set run_folder to a place that you may write to.") from None
    _link_base(run_folder / "base", Path(loaded.config.model.folder).absolute())
    write_text(run_folder / CONFIG, describe_config(loaded))


def _link_base(base: Path, target: Path) -> None:
    if base.exists() and base.samefile(target):
        return  # also where model.folder names this very link, or lies here itself
    if base.exists() and not base.is_symlink():
        raise CheckpointError(
            "another folder stands where the link to model.folder belongs",
            where=str(base),
            mend="Give another run_folder.",
        )
    base.unlink(missing_ok=True)
    base.symlink_to(target, target_is_directory=True)


def load_checkpoint(engine: Any, checkpoint: Checkpoint) -> None:
    """Bring the engine to where the checkpoint was written."""
    own_values = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    path, _ = engine.load_checkpoint(str(checkpoint.folder), tag=ENGINE)
    assert path is not None, f"DeepSpeed found nothing in {checkpoint.folder}"
    for group, values in zip(engine.optimizer.param_groups, own_values, strict=True):
        group.update(values)
