"""What a start finds in its run folder: nothing, a run to go on with, or a finished one.

Enters: a run folder and the options of this start. Leaves: the step to go on from, and an engine that stands there.
A resume may change how a run works (ranks, workers, tracking, learning rate, its length), never what it means: data,
order, model. From a checkpoint of another number of ranks DeepSpeed restores neither frozen parameters nor each group's
own values, so the folder's weights are loaded first and the groups' values set again (facts: deepspeed.md).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from phi3v_dist.checkpoints.choose import ENGINE, Checkpoint, Damage, survey
from phi3v_dist.checkpoints.universal import universal_copy
from phi3v_dist.checkpoints.verify import first_whole, verify
from phi3v_dist.cluster.process_group import from_rank_0, together
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.loading import LoadedConfig, describe_config, difference, load_config
from phi3v_dist.console import log
from phi3v_dist.errors import CheckpointError
from phi3v_dist.files import write_text
from phi3v_dist.training.attempts import make_run_folder

CONFIG = "config.yaml"
_MEANING = (
    "model.rope_mode",
    "model.train_vision",
    "documents",
    "packing.pack_tokens",
    "packing.packs_per_step",
    "packing.window_shards",
    "packing.window_packs",
    "packing.pool_documents",
    "packing.choose_documents",
    "packing.balance_steps",
    "packing.group_packs",
    "packing.long_documents",
    "training.seed",
    "training.precision",
)


def find_checkpoint(loaded: LoadedConfig, trained_on: dict[str, str], who: ClusterInfo) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, the same on every rank, or None for a new run. All ranks call it.

    Every byte of it is read, shared out over the ranks. Damaged ones that are newer are put aside, each with a line
    (``step-N.damaged``). Raises ``CheckpointError``, alike on every rank, when there are checkpoints and none is whole,
    or when they belong to another run.
    """
    run_folder = Path(loaded.config.run_folder)
    there = from_rank_0(survey(run_folder) if who.is_rank_0 else [])
    checkpoint, passed = first_whole(there[::-1], lambda c: together(lambda: verify(c, who.rank, who.num_ranks)))
    if checkpoint is None:
        if passed:
            raise _none_whole(passed)
        return None
    together(lambda: _check_meaning(loaded, checkpoint, trained_on))
    together(lambda: _put_aside(passed, checkpoint) if who.is_rank_0 else None)
    return checkpoint


def _none_whole(passed: Sequence[Damage]) -> CheckpointError:
    return CheckpointError(
        f"none of the checkpoints is whole: {'; '.join(f'{damage.folder.name}: {damage.reason}' for damage in passed)}",
        where=str(passed[0].folder.parent),
        mend="Put a whole one back, or give another run_folder for a new run.",
    )


def _put_aside(passed: Sequence[Damage], instead: Checkpoint) -> None:
    """Take its name from what is damaged, so that it is never again chosen, nor kept in place of a good one."""
    for damage in passed:
        aside = damage.folder.with_name(f"{damage.folder.name}.damaged")
        try:
            if aside.exists():
                shutil.rmtree(aside)
            damage.folder.rename(aside)
        except OSError as error:
            what, mend = f"it can't be put aside: {error.strerror}", "Mend its permissions, or delete it."
            raise CheckpointError(f"{damage.reason}, and {what}", where=str(damage.folder), mend=mend) from None
        log.warning("%s, put aside as %s (delete it); falling back to step %d", damage, aside.name, instead.step)


def _check_meaning(loaded: LoadedConfig, checkpoint: Checkpoint, trained_on: dict[str, str]) -> None:
    run_folder = Path(loaded.config.run_folder)
    if not (run_folder / CONFIG).is_file():
        raise CheckpointError(
            "the options of this run's first steps are gone, so a changed one would go unseen",
            where=str(run_folder / CONFIG),
            mend="Put the file back, or give another run_folder for a new run.",
        )
    refuse_other_options(loaded, f"has {checkpoint.step} steps")
    for option, now in trained_on.items():
        before = checkpoint.trained_on.get(option, "unknown")
        if now != before:
            what = f"its content is not what this run was trained on: {before[:12]} → {now[:12]} (hash of its index)"
            mend = "Put the old content back"
            if option == "packing":
                what = f"another version planned the steps of this run: {before} → {now}"
                mend = "Go on with the version that began the run"
            raise CheckpointError(what, where=option, mend=f"{mend}, or give another run_folder for a new run.")


def refuse_other_options(loaded: LoadedConfig, what: str) -> None:
    """Raise ``CheckpointError`` where the run began with options that mean another run. ``what``: it did with those."""
    run_folder = Path(loaded.config.run_folder)
    changed = difference(load_config(run_folder / CONFIG).config, loaded.config, _MEANING)
    if changed:
        told = "; ".join(f"{key}: {old!r} → {new!r}" for key, old, new in changed)
        raise CheckpointError(
            f"this run {what} with other options: {told}",
            where=str(run_folder),
            mend="Give the old values, or another run_folder for a new run.",
        )


def open_run_folder(loaded: LoadedConfig) -> None:
    """Make the run folder: the effective configuration, and the link to the model folder that training begins from."""
    run_folder = Path(loaded.config.run_folder)
    make_run_folder(run_folder)
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


def load_checkpoint(engine: Any, checkpoint: Checkpoint, who: ClusterInfo) -> None:
    """Bring the engine to where the checkpoint was written, by whatever number of ranks. All ranks call it.

    ``engine``: built by ``build_engine`` for this very checkpoint.
    """
    own_values = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    if checkpoint.num_ranks == who.num_ranks:
        _load(engine, checkpoint.folder)
    else:
        with universal_copy(checkpoint, who) as folder:
            _load(engine, folder)
        _part_step_counts(engine.optimizer.optimizer)
    for group, values in zip(engine.optimizer.param_groups, own_values, strict=True):
        group.update(values)


def _load(engine: Any, folder: Path) -> None:
    path, _ = engine.load_checkpoint(str(folder), tag=ENGINE)
    assert path is not None, f"DeepSpeed found nothing in {folder}"


def _part_step_counts(optimizer: torch.optim.Optimizer) -> None:
    """Give every state its own count: DeepSpeed loads one tensor into all, and AdamW would count it up for each."""
    for parameter, state in optimizer.state.items():
        state["step"] = state["step"].detach().clone().to(parameter.device)
