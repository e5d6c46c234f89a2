"""The training loop.

Enters: an effective configuration, and who this rank is. Leaves: a run folder as DESIGN.md draws it. For each planned
step: its packs forward and backward, one update, validate when due, report, save when due. What the words mean stands
in the files named after them.
"""

import logging
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from phi3v_dist.checkpoints.choose import Checkpoint
from phi3v_dist.checkpoints.save import save_checkpoint
from phi3v_dist.cluster.process_group import process_group, together
from phi3v_dist.cluster.signals import StopSignals, held_back
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.loading import LoadedConfig
from phi3v_dist.config.options import RunConfig
from phi3v_dist.console import log, say
from phi3v_dist.errors import StoppedError
from phi3v_dist.packing.collate import Batch
from phi3v_dist.packing.loader import PackLoader
from phi3v_dist.packing.plan import StepPlan
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.tracking.tracker import Tracker, start_tracking
from phi3v_dist.training.attempts import is_finished, mark_finished
from phi3v_dist.training.backend import Backend, choose_backend
from phi3v_dist.training.engine import build_engine, deepspeed_settings
from phi3v_dist.training.guard import Guard
from phi3v_dist.training.materials import Materials, gather_materials
from phi3v_dist.training.resume import find_checkpoint, load_checkpoint, open_run_folder
from phi3v_dist.training.schedule import learning_rate
from phi3v_dist.training.step import StepSums, take_step
from phi3v_dist.training.stop import Stop
from phi3v_dist.training.validation import Validation

_PATIENCE = 3  # times training.hang_minutes, for what takes longer than a micro-step
_SHORTEST_TIMEOUT_MINUTES = 10.0  # ranks of a busy machine may be minutes apart while they start
_BYTES_PER_PARAMETER = 12  # of a checkpoint: fp32 master copy and two moments
_SAVE_BYTES_PER_SECOND = 5e8  # of the whole job, until the first save has told better


@dataclass
class Run:
    """All parts of a run on this rank, ready for its first step. ``step``: the last finished one."""

    config: RunConfig
    who: ClusterInfo
    engine: Any
    materials: Materials
    loader: PackLoader
    validation: Validation
    tracker: Tracker
    guard: Guard
    stop: Stop
    step: int
    saved_step: int
    validation_loss: float | None = None  # after ``step``, None where none was measured


def train(loaded: LoadedConfig, who: ClusterInfo) -> None:
    """Train from where the run folder stands to the last step.

    Raises ``StoppedError`` on every rank when the run was asked to stop, and UserError on every rank or naming its own.
    """
    if is_finished(Path(loaded.config.run_folder)):
        mend = "Give another run_folder for a new run; to lengthen this one, delete FINISHED in it"
        _say(who, f"{loaded.config.run_folder} is finished already. {mend}")
        return
    backend = choose_backend(loaded.config, who)
    timeout_minutes = max(_SHORTEST_TIMEOUT_MINUTES, _PATIENCE * loaded.config.training.hang_minutes)
    with StopSignals(_end_at_once) as signals, process_group(who, backend.process_group, timeout_minutes):
        run = _prepare(loaded, backend, who, signals)
        try:
            _take_steps(run)
        finally:
            run.tracker.close()
            run.loader.close()
        run.stop.close()
        if who.is_rank_0 and not run.stop.reason:
            mark_finished(Path(run.config.run_folder), run.materials.total_steps)
    if run.stop.reason:
        where, mend = f"step {run.step} of {run.materials.total_steps}", "The same command goes on from there."
        raise StoppedError(f"stopped for {run.stop.reason}, this step is saved", where=where, mend=mend)


def _end_at_once(name: str) -> None:
    print(f"STOPPED at once by a second signal ({name}): steps after the last checkpoint are done again", flush=True)
    os._exit(StoppedError.exit_code)


def _take_steps(run: Run) -> None:
    """Take every step that is left; stop before when all ranks agree to, with the last finished step saved."""
    config, total = run.config, run.materials.total_steps
    ended, waited = time.monotonic(), run.loader.wait_seconds
    saving: dict[str, float] = {}
    for plan, batches in run.loader.steps(run.step, total):
        rate = learning_rate(plan.step, total, config.training)
        goes_on = partial(_goes_on, run)
        sums = take_step(run.engine, plan, batches, learning_rate=rate, num_ranks=run.who.num_ranks, goes_on=goes_on)
        if sums is None:
            break
        run.step = plan.step + 1
        now, wait = time.monotonic(), run.loader.wait_seconds
        run.guard.check(run.step, sums, plan.epoch)
        metrics = _metrics(plan, sums, rate, now - ended, wait - waited, run.guard) | saving
        if _due(run.step, config.evaluation.every_steps, total):
            metrics |= run.validation.run(run.engine, run.step, run.tracker)
        run.validation_loss = metrics.get("validation_loss")
        run.tracker.log_step(run.step, metrics)
        run.stop.learn(step_seconds=time.monotonic() - ended)
        # A checkpoint is never ahead of the metrics on disk, so what it took is told with the next step's.
        saving = _save(run) if _due(run.step, config.checkpoints.every_steps, total) else {}
        ended, waited = time.monotonic(), run.loader.wait_seconds
    if run.saved_step < run.step:
        _save(run)


def _goes_on(run: Run, micro_step: int, batch: Batch) -> bool:
    return not run.stop.agreed()


def _due(step: int, every: int, total: int) -> bool:
    return every > 0 and (step % every == 0 or step == total)


def _metrics(
    plan: StepPlan, sums: StepSums, rate: float, seconds: float, wait_seconds: float, guard: Guard
) -> dict[str, float]:
    return {
        "loss": sums.loss,
        "learning_rate": rate,
        "gradient_norm": sums.gradient_norm,
        "tokens_per_second": sums.tokens / seconds,
        "model_tflops_per_second": sums.model_flops / seconds / 1e12,
        "step_seconds": seconds,
        "data_wait_share": wait_seconds / seconds,
        "tokens": sums.tokens,
        "supervised_tokens": sums.supervised,
        "documents": sums.documents,
        "packs": len(plan.packs),
        "damaged_samples": guard.damaged,
        "epoch": plan.epoch,
    }


def _save(run: Run) -> dict[str, float]:
    run.tracker.make_durable()
    saved = save_checkpoint(
        run.engine,
        run.config.run_folder,
        step=run.step,
        trained_on=run.materials.trained_on,
        longest_document=run.materials.plan.longest_document,
        keep_last=run.config.checkpoints.keep_last,
        keep_best=run.config.checkpoints.keep_best,
        validation_loss=run.validation_loss,
    )
    run.saved_step = run.step
    run.stop.learn(save_seconds=saved.seconds)
    _say(run.who, f"saved {saved.folder} ({saved.written_bytes / 1e6:.1f} MB, {saved.seconds:.1f} s)")
    return {"checkpoint_seconds": saved.seconds}


def _prepare(loaded: LoadedConfig, backend: Backend, who: ClusterInfo, signals: StopSignals) -> Run:
    """Check everything that a user can have got wrong, on all ranks together, then build the parts."""
    config = loaded.config
    materials = together(lambda: _check(loaded))
    checkpoint = find_checkpoint(loaded, materials.trained_on, who)
    together(lambda: open_run_folder(loaded) if who.is_rank_0 else None)
    together(lambda: _open_log(config, who))
    _announce(config, backend, who, materials, checkpoint)
    engine = together(lambda: build_engine(config, backend, who, checkpoint))
    if checkpoint is not None:
        load_checkpoint(engine, checkpoint, who)
    reader = ShardReader(materials.index)
    first_step = checkpoint.step if checkpoint else 0
    return Run(
        config=config,
        who=who,
        engine=engine,
        materials=materials,
        loader=PackLoader(
            materials.plan,
            reader,
            materials.processor,
            config.packing,
            rank=who.rank,
            ranks=who.num_ranks,
            device_pin=backend.device.type == "cuda",
        ),
        validation=Validation(config, materials, who),
        tracker=together(lambda: _start_tracking(config, materials, first_step, who)),
        guard=Guard(config.packing.max_damaged_share),
        stop=_prepare_to_stop(config, engine, who, signals),
        step=first_step,
        saved_step=first_step,
    )


def _prepare_to_stop(config: RunConfig, engine: Any, who: ClusterInfo, signals: StopSignals) -> Stop:
    parameters = sum(p.ds_numel for p in engine.module.parameters() if p.requires_grad)
    return Stop(
        signals,
        who,
        save_seconds=parameters * _BYTES_PER_PARAMETER / _SAVE_BYTES_PER_SECOND,
        spare_seconds=config.checkpoints.spare_seconds,
        group_timeout=timedelta(minutes=max(_SHORTEST_TIMEOUT_MINUTES, _PATIENCE * config.training.hang_minutes)),
    )


def _check(loaded: LoadedConfig) -> Materials:
    deepspeed_settings(loaded.config)
    return gather_materials(loaded.config)


def _start_tracking(config: RunConfig, materials: Materials, first_step: int, who: ClusterInfo) -> Tracker:
    with held_back():  # W&B's own process must outlive a request to stop, for the last metrics
        return start_tracking(
            config.tracking,
            Path(config.run_folder),
            config.model_dump(),
            total_steps=materials.total_steps,
            first_step=first_step + 1,
            is_rank_0=who.is_rank_0,
        )


def _open_log(config: RunConfig, who: ClusterInfo) -> None:
    """Each rank's log lines go to ``logs/rank-N.log``, warnings also to standard error."""
    folder = Path(config.run_folder) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    file, screen = logging.FileHandler(folder / f"rank-{who.rank}.log"), logging.StreamHandler()
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    screen.setFormatter(logging.Formatter(f"%(levelname)s rank {who.rank}: %(message)s"))
    screen.setLevel(logging.WARNING)
    log.handlers = [file, screen]
    log.setLevel(logging.INFO)


def _announce(
    config: RunConfig, backend: Backend, who: ClusterInfo, materials: Materials, checkpoint: Checkpoint | None
) -> None:
    plan = materials.plan
    _say(who, f"{who.num_ranks} ranks on {who.num_nodes} nodes, started by {who.launcher}: {backend.reason}")
    _say(
        who,
        f"{plan.documents} documents an epoch in {len(plan.packs(0))} packs of up to {config.packing.pack_tokens} "
        f"tokens ({plan.fill():.1%} full), {materials.total_steps} steps; {plan.dropped} too long and left out",
    )
    if checkpoint is not None:
        _say(who, f"going on at step {checkpoint.step} from {checkpoint.folder}")


def _say(who: ClusterInfo, text: str) -> None:
    log.info(text)
    if who.is_rank_0:
        say(text)
