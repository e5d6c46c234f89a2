"""Checks that run something: DeepSpeed's compiled parts, a step of a cut-down model, its save and load.

Enters: a ``Scene`` whose shards, model folder and run folder are good. Leaves: rows, equal on all ranks.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from phi3v_dist.cluster.compiled import load_compiled_parts
from phi3v_dist.cluster.process_group import from_all_ranks
from phi3v_dist.errors import CheckpointError, HardwareError, RunError
from phi3v_dist.shards.sources import SourcesReader
from phi3v_dist.training import trial
from phi3v_dist.training.preflight_scene import PROBE, Scene, in_gb
from phi3v_dist.training.preflight_verdict import Fault, Row, faults_of, values_of

_TRIAL_PATIENCE = 3.0
_MOST_SAMPLES = 64
_SAME_LOSS_SHARE = 0.02  # the same pack on two GPUs; a GPU that calculates wrongly is off by more, or not at all
_LOOK = "Look at its GPU (nvidia-smi, dmesg) and leave it out (sbatch --exclude)."


def compiled_parts(scene: Scene) -> Row:
    """What DeepSpeed compiles is there on every rank. It was built, or found, as the device was chosen."""
    name = "compiled parts"
    if scene.backend.device.type == "cuda":
        return Row(name, "", skipped="none are needed: the optimizer kernel is PyTorch's")
    answers = scene.panel.ask(name, load_compiled_parts)
    if faults := faults_of(answers):
        scene.no_trial = "DeepSpeed's compiled parts are missing"
        return Row(name, "not there", "built or found", faults)
    return Row(name, f"found in {values_of(answers)[0][1].parent}", "built or found")


def trial_step(scene: Scene) -> Row:
    """One step on packs with pictures, one on packs without, on every rank."""
    name = "trial step"
    if scene.index is None or scene.processor is None or scene.no_trial:
        return Row(name, "", skipped=scene.no_trial)
    who, panel = scene.who, scene.panel
    panel.deadline.at(f"{name}: building", _TRIAL_PATIENCE)
    with tempfile.TemporaryDirectory() as folder:
        config = trial.cut_down(scene.config, Path(folder))
        scene.engine = trial.build_trial_engine(config, scene.backend, who)
    numbers = scene.index.numbers("train")
    reader = SourcesReader(scene.index)
    own = trial.some_samples(reader, np.roll(numbers, -who.rank * len(numbers) // who.num_ranks)[:_MOST_SAMPLES])
    first = trial.some_samples(reader, numbers[:_MOST_SAMPLES])
    packs = [
        trial.pack_with_pictures(scene.processor, own, scene.config.packing.pack_tokens),
        trial.pack_of_text(scene.processor, first, scene.config.packing.pack_tokens),
    ]
    panel.deadline.at(f"{name}: the same pack on every rank", _TRIAL_PATIENCE)
    told = from_all_ranks((who.node_name, trial.own_loss(scene.engine, packs[1])))
    faults = judge_losses([node for node, _ in told], [loss for _, loss in told])
    steps = []
    for kind, pack in zip(("with pictures", "without"), packs, strict=True):
        panel.deadline.at(f"{name} {kind}", _TRIAL_PATIENCE)
        steps.append(trial.step_on(scene.engine, pack, who, sum(from_all_ranks(len(pack.targets)))))
    if not faults and not all(map(trial.is_finite, steps)):
        what = f"loss or gradient norm of a model with random weights is not finite on {who.num_ranks} ranks"
        found = ", ".join(f"{step.loss:.3g} and {step.gradient_norm:.3g}" for step in steps)
        faults = [Fault(RunError(what, where="trial step", value=found, mend="Try training.precision=fp32."))]
    norms = ", ".join(f"{step.gradient_norm:.2f}" for step in steps)
    value = f"loss {steps[0].loss:.3f} with pictures, {steps[1].loss:.3f} without; gradient norms {norms}"
    return Row(name, value, "finite, equal on all ranks", tuple(faults))


def judge_losses(nodes: Sequence[str], losses: Sequence[float]) -> list[Fault]:
    """Losses of one and the same pack on every rank: name the node whose own is no number, or not the others'."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    middle = median(finite) if finite else math.nan
    off = [not abs(loss - middle) <= _SAME_LOSS_SHARE * abs(middle) for loss in losses]
    faults: dict[str, Fault] = {}
    for node, loss, is_off in zip(nodes, losses, off, strict=True):
        if is_off:
            what = f"its loss of a pack that all ranks have is {loss:.4g}, the others' {middle:.4g}"
            error = HardwareError(what, where=f"node {node}", mend=_LOOK)
            faults.setdefault(node, Fault(error, node if 2 * sum(off) < len(off) else ""))
    return list(faults.values())


def save_and_load(scene: Scene) -> Row:
    """Save the cut-down model as step 0, change it, load it: the weights must be those that were saved."""
    name, who, engine = "save and load", scene.who, scene.engine
    if engine is None or scene.no_save:
        return Row(name, "", skipped=scene.no_save or "there was no trial step")
    folder = scene.run_folder / PROBE / "trial"
    scene.panel.deadline.at(f"{name}: saving", _TRIAL_PATIENCE)
    before = trial.master_weights(engine)
    try:
        save_seconds, save_bytes = trial.save(engine, folder)
    except CheckpointError as error:  # alike on every rank
        return Row(name, "nothing saved", "the same weights again", (Fault(error),))
    assert scene.processor is not None, "there is an engine"
    pack = trial.pack_of_text(scene.processor, [], scene.config.packing.pack_tokens)
    trial.step_on(engine, pack, who, who.num_ranks)
    scene.panel.deadline.at(f"{name}: loading", _TRIAL_PATIENCE)
    load_seconds = trial.load(engine, folder, who)
    answers = scene.panel.ask(f"{name}: comparing", lambda: _compare(before, trial.master_weights(engine), folder))
    speed = save_bytes / save_seconds
    value = (
        f"{in_gb(save_bytes)} in {save_seconds:.1f} s ({in_gb(speed)}/s), loaded in {load_seconds:.1f} s; "
        f"the real model's {in_gb(scene.checkpoint_bytes)}: about {scene.checkpoint_bytes / speed:.0f} s"
    )
    return Row(name, value, "the same weights again", faults_of(answers))


def _compare(before: torch.Tensor, after: torch.Tensor, folder: Path) -> None:
    if not torch.equal(before, after):
        what = "weights that were loaded are not those that were saved"
        raise RunError(what, where=str(folder), mend="Set run_folder to another file system, and report this.")
