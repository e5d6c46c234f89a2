"""Everything that stands before a run takes its first step.

Enters: an effective configuration, who this rank is, what it runs on. Leaves: a ``Run`` with all its parts. First comes
what a user can have got wrong, on all ranks together; then the run folder; then what takes time.
"""

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from phi3v_dist.checkpoints.choose import Checkpoint
from phi3v_dist.cluster.hang import Hang
from phi3v_dist.cluster.process_group import from_rank_0, together
from phi3v_dist.cluster.signals import StopSignals, held_back
from phi3v_dist.cluster.watchdog import Watchdog
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.loading import LoadedConfig
from phi3v_dist.config.options import RunConfig
from phi3v_dist.console import log, say
from phi3v_dist.errors import LostRankError
from phi3v_dist.packing.loader import PackLoader
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.tracking.tracker import Tracker, start_tracking
from phi3v_dist.training.attempts import blame_node, tell_verdict
from phi3v_dist.training.backend import Backend
from phi3v_dist.training.engine import build_engine, deepspeed_settings
from phi3v_dist.training.guard import Guard
from phi3v_dist.training.materials import Materials, gather_materials
from phi3v_dist.training.resume import find_checkpoint, load_checkpoint, open_run_folder
from phi3v_dist.training.stop import Stop
from phi3v_dist.training.validation import Validation

PATIENCE = 3  # times training.hang_minutes, for what takes longer than a micro-step
_START_MINUTES = 10.0  # ranks of a busy machine may be minutes apart while they start, however short a micro-step is
_BYTES_PER_PARAMETER = 12  # of a checkpoint: fp32 master copy and two moments
_SAVE_BYTES_PER_SECOND = 5e8  # of the whole job, until the first save has told better


@dataclass
class Run:
    """All parts of a run on this rank, ready for its next step.

    ``step``: the last finished one; ``first_step``: what it was at the start.
    """

    config: RunConfig
    who: ClusterInfo
    engine: Any
    materials: Materials
    loader: PackLoader
    validation: Validation
    tracker: Tracker
    guard: Guard
    stop: Stop
    watchdog: Watchdog
    first_step: int
    step: int
    saved_step: int
    validation_loss: float | None = None  # after ``step``, None where none was measured


def timeout_minutes(config: RunConfig) -> float:
    """How long a collective may take: longer than the watchdog waits, which can say more."""
    return max(_START_MINUTES, 2 * PATIENCE * config.training.hang_minutes)


def prepare(loaded: LoadedConfig, backend: Backend, who: ClusterInfo, signals: StopSignals, ends: ExitStack) -> Run:
    """Check, then build all parts; those that must come to an end are given to ``ends``. All ranks call it.

    Raises UserError on every rank alike.
    """
    config = loaded.config
    materials = together(lambda: _check(loaded))
    checkpoint = find_checkpoint(loaded, materials.trained_on, who)
    together(lambda: open_run_folder(loaded) if who.is_rank_0 else None)
    together(lambda: _open_log(config, who))
    _announce(config, backend, who, materials, checkpoint)
    watchdog = _start_watchdog(config, who, ends)
    engine = together(lambda: build_engine(config, backend, who, checkpoint))
    if checkpoint is not None:
        load_checkpoint(engine, checkpoint, who)
    watchdog.watch_modules(engine.module)
    first_step = checkpoint.step if checkpoint else 0
    tracker = together(lambda: _start_tracking(config, materials, first_step, who))
    ends.callback(tracker.close)
    loader = _make_loader(config, materials, backend, who)
    ends.callback(loader.close)
    return Run(
        config=config,
        who=who,
        engine=engine,
        materials=materials,
        loader=loader,
        validation=Validation(config, materials, who),
        tracker=tracker,
        guard=Guard(config.packing.max_damaged_share),
        stop=_prepare_to_stop(config, engine, who, signals),
        watchdog=watchdog,
        first_step=first_step,
        step=first_step,
        saved_step=first_step,
    )


def _check(loaded: LoadedConfig) -> Materials:
    deepspeed_settings(loaded.config)
    return gather_materials(loaded.config)


def _start_watchdog(config: RunConfig, who: ClusterInfo, ends: ExitStack) -> Watchdog:
    run_folder = Path(config.run_folder)

    def on_hang(hang: Hang) -> None:
        tell_verdict(run_folder, who, LostRankError.exit_code, hang.text)
        # A rank in another collective than the others is a fault of the code, not of its node.
        for node in hang.nodes if hang.kind in ("silent", "busy") else ():
            blame_node(run_folder, who, node, hang.text)

    # A folder for this start alone: a run may hang again.
    folder = run_folder / "hangs" / from_rank_0(time.strftime("%Y%m%d-%H%M%S"))
    minutes = config.training.hang_minutes
    watchdog = Watchdog(folder, who, minutes * 60, on_hang)
    ends.callback(watchdog.stop)
    if minutes:
        watchdog.start()
        watchdog.at("preparing", patience=max(PATIENCE, _START_MINUTES / minutes))
    return watchdog


def _make_loader(config: RunConfig, materials: Materials, backend: Backend, who: ClusterInfo) -> PackLoader:
    return PackLoader(
        materials.plan,
        ShardReader(materials.index),
        materials.processor,
        config.packing,
        rank=who.rank,
        ranks=who.num_ranks,
        device_pin=backend.device.type == "cuda",
    )


def _prepare_to_stop(config: RunConfig, engine: Any, who: ClusterInfo, signals: StopSignals) -> Stop:
    parameters = sum(p.ds_numel for p in engine.module.parameters() if p.requires_grad)
    return Stop(
        signals,
        who,
        save_seconds=parameters * _BYTES_PER_PARAMETER / _SAVE_BYTES_PER_SECOND,
        spare_seconds=config.checkpoints.spare_seconds,
        group_timeout=timedelta(minutes=timeout_minutes(config)),
    )


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
    tell(who, f"{who.num_ranks} ranks on {who.num_nodes} nodes, started by {who.launcher}: {backend.reason}")
    tell(
        who,
        f"{plan.documents} documents an epoch in {len(plan.packs(0))} packs of up to {config.packing.pack_tokens} "
        f"tokens ({plan.fill():.1%} full), {materials.total_steps} steps; {plan.dropped} too long and left out",
    )
    if checkpoint is not None:
        tell(who, f"going on at step {checkpoint.step} from {checkpoint.folder}")


def tell(who: ClusterInfo, text: str) -> None:
    """One line for the rank's log, and from rank 0 for the person."""
    log.info(text)
    if who.is_rank_0:
        say(text)
