"""The training loop.

Enters: an effective configuration, and who this rank is. Leaves: a run folder as DESIGN.md draws it. For each planned
step: its packs forward and backward, one update, validate when due, report, save when due. What the words mean stands
in the files named after them.
"""

import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from phi3v_dist.checkpoints.save import save_checkpoint, tell_reported
from phi3v_dist.cluster.meeting import Meeting
from phi3v_dist.cluster.process_group import process_group, together
from phi3v_dist.cluster.signals import StopSignals
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.loading import LoadedConfig
from phi3v_dist.errors import StoppedError
from phi3v_dist.packing.collate import Batch
from phi3v_dist.packing.steps import StepPlan
from phi3v_dist.training.attempts import is_finished, mark_finished, tell_lost_nodes, tell_verdict
from phi3v_dist.training.backend import choose_backend
from phi3v_dist.training.guard import Guard
from phi3v_dist.training.prepare import Run, prepare, tell
from phi3v_dist.training.resume import CONFIG, refuse_other_options
from phi3v_dist.training.schedule import learning_rate
from phi3v_dist.training.step import StepSums, take_step
from phi3v_dist.training.watch import PATIENCE, START_MINUTES, timeout_minutes, watched
from phi3v_dist.training.window_counts import remember_windows


def train(loaded: LoadedConfig, who: ClusterInfo) -> None:
    """Train from where the run folder stands to the last step.

    Raises ``StoppedError`` on every rank when the run was asked to stop, and UserError on every rank or naming its own.
    """
    if is_finished(Path(loaded.config.run_folder)):
        if (Path(loaded.config.run_folder) / CONFIG).is_file():
            refuse_other_options(loaded, "is finished")
        mend = "Give another run_folder for a new run; to lengthen this one, delete FINISHED in it"
        tell(who, f"{loaded.config.run_folder} is finished already. {mend}")
        return
    backend = choose_backend(loaded.config, who)
    meeting = Meeting(who, START_MINUTES * 60, partial(tell_lost_nodes, loaded.config.run_folder, who))
    with (
        StopSignals(partial(_end_at_once, loaded.config.run_folder, who)) as signals,
        ExitStack() as last,  # closed behind the group's last barrier, where a rank may freeze too
        process_group(who, backend.process_group, timeout_minutes(loaded.config)),
        ExitStack() as ends,
    ):
        meeting.over()
        watchdog = last.enter_context(watched(loaded.config, who))
        run = prepare(loaded, backend, who, signals, watchdog, ends)
        _take_steps(run)
        run.stop.close()
        run.watchdog.at("ending", step=run.step, patience=PATIENCE)
        if who.is_rank_0 and not run.stop.reason:
            mark_finished(Path(run.config.run_folder), run.materials.total_steps)
    if run.stop.reason:
        where, mend = f"step {run.step} of {run.materials.total_steps}", "The same command goes on from there."
        raise StoppedError(f"stopped for {run.stop.reason}, this step is saved", where=where, mend=mend)


def _end_at_once(run_folder: str, who: ClusterInfo, signal_name: str) -> None:
    if who.is_rank_0:
        what = f"stopped at once by a second signal ({signal_name}), steps after the last checkpoint are done again"
        tell_verdict(run_folder, who, StoppedError.exit_code, what)
        print(f"{StoppedError.label} {run_folder}: {what}", file=sys.stderr, flush=True)
    os._exit(StoppedError.exit_code)


def _take_steps(run: Run) -> None:
    """Take every step that is left; stop before when all ranks agree to, with the last finished step saved."""
    config, total = run.config, run.materials.total_steps
    if not _catch_up(run):
        return
    ended, waited = time.monotonic(), run.loader.wait_seconds
    saving: dict[str, float] = {}
    for plan, batches in run.loader.steps(run.step, total):
        run.watchdog.at("training", step=run.step + 1, patience=PATIENCE)
        rate = learning_rate(plan.step, total, config.training)
        goes_on = partial(_goes_on, run)
        sums = take_step(run.engine, plan, batches, learning_rate=rate, num_ranks=run.who.num_ranks, goes_on=goes_on)
        if sums is None:
            break
        run.step = plan.step + 1
        now, wait = time.monotonic(), run.loader.wait_seconds
        run.guard.check(run.step, sums, plan.epoch)
        metrics = _metrics(plan, sums, rate, now - ended, wait - waited, run.guard) | saving
        run.stop.learn(step_seconds=now - ended)
        if not _validate_and_report(run, metrics):
            break
        # A checkpoint is never ahead of the metrics on disk, so what it took is told with the next step's.
        saving = _save(run) if _due(run.step, config.checkpoints.every_steps, total) else {}
        ended, waited = time.monotonic(), run.loader.wait_seconds
    if run.saved_step < run.step:
        _save(run)


def _catch_up(run: Run) -> bool:
    """Report the step that the start before was asked to stop in the validation of. False: asked to stop again."""
    checkpoint = run.checkpoint
    if checkpoint is None or checkpoint.unreported is None:
        return True
    if not _validate_and_report(run, checkpoint.unreported):
        return False
    run.tracker.make_durable()
    together(lambda: tell_reported(checkpoint, run.validation_loss) if run.who.is_rank_0 else None)
    return True


def _validate_and_report(run: Run, metrics: dict[str, float]) -> bool:
    """Report the step that is done, with its validation when due. False: asked to stop meanwhile.

    The step is then reported, and validated, by the next start: its metrics wait in its checkpoint.
    """
    run.unreported, run.validation_loss = metrics, None
    if _due(run.step, run.config.evaluation.every_steps, run.materials.total_steps):
        run.watchdog.at("validating", step=run.step, patience=PATIENCE)
        validated = run.validation.run(run.engine, run.step, run.tracker, lambda: not run.stop.agreed())
        if validated is None:
            return False
        metrics = metrics | validated
    run.validation_loss = metrics.get("validation_loss")
    run.tracker.log_step(run.step, metrics)
    run.unreported = None
    return True


def _goes_on(run: Run, micro_step: int, batch: Batch) -> bool:
    keys = [run.materials.index.key(number) for number in batch.samples.tolist() if number >= 0]
    # In the first step after a start kernels are compiled and the loader's processes begin.
    patience = PATIENCE if run.just_started else 1
    run.watchdog.at("training", step=run.step + 1, micro_step=micro_step, samples=keys, patience=patience)
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
    run.watchdog.at("saving", step=run.step, patience=PATIENCE)
    run.tracker.make_durable()
    saved = save_checkpoint(
        run.engine,
        run.config.run_folder,
        step=run.step,
        trained_on=run.materials.trained_on,
        longest_document=run.materials.plan.lengths.longest,
        keep_last=run.config.checkpoints.keep_last,
        keep_best=run.config.checkpoints.keep_best,
        validation_loss=run.validation_loss,
        unreported=run.unreported,
    )
    if run.who.is_rank_0:
        remember_windows(run.materials.plan, run.config, run.materials.trained_on)
    run.saved_step = run.step
    run.stop.learn(save_seconds=saved.seconds)
    tell(run.who, f"saved {saved.folder} ({saved.written_bytes / 1e6:.1f} MB, {saved.seconds:.1f} s)")
    return {"checkpoint_seconds": saved.seconds}
