"""Everything that stands before a run takes its first step.

Enters: an effective configuration, who this rank is, what it runs on. Leaves: a ``Run`` with all its parts. First comes
what a user can have got wrong, on all ranks together; then the run folder; then what takes time.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from phi3v_dist.checkpoints.choose import Checkpoint
from phi3v_dist.checkpoints.space import predicted_bytes
from phi3v_dist.cluster.process_group import together
from phi3v_dist.cluster.signals import StopSignals, held_back
from phi3v_dist.cluster.watchdog import Watchdog
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.loading import LoadedConfig
from phi3v_dist.config.options import RunConfig
from phi3v_dist.console import log, say
from phi3v_dist.packing.loader import PackLoader
from phi3v_dist.shards.sources import SourcesReader
from phi3v_dist.tracking.tracker import Tracker, start_tracking
from phi3v_dist.training.backend import Backend
from phi3v_dist.training.engine import build_engine, deepspeed_settings
from phi3v_dist.training.guard import Guard
from phi3v_dist.training.materials import Materials, gather_materials, warnings_of
from phi3v_dist.training.resume import find_checkpoint, load_checkpoint, open_run_folder
from phi3v_dist.training.stop import Stop
from phi3v_dist.training.validation import Validation
from phi3v_dist.training.watch import PATIENCE, start_patience, timeout_minutes

_SAVE_BYTES_PER_SECOND = 5e8  # of the whole job, until the first save has told better


@dataclass
class Run:
    """All parts of a run on this rank, ready for its next step.

    ``checkpoint``: what this start goes on from. ``step``: the last finished one, with its metrics while they are
    ``unreported``.
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
    checkpoint: Checkpoint | None
    step: int
    saved_step: int
    unreported: dict[str, float] | None = None
    validation_loss: float | None = None  # after ``step``, None where none was measured

    @property
    def just_started(self) -> bool:
        """Whether this start has taken no step yet."""
        return self.step == (self.checkpoint.step if self.checkpoint else 0)


def prepare(
    loaded: LoadedConfig,
    backend: Backend,
    who: ClusterInfo,
    signals: StopSignals,
    watchdog: Watchdog,
    ends: ExitStack,
) -> Run:
    """Check, then build all parts; those that must come to an end are given to ``ends``. All ranks call it.

    Raises UserError on every rank alike.
    """
    config = loaded.config
    materials = together(lambda: _check(loaded))
    checkpoint = find_checkpoint(loaded, materials.trained_on, who)
    together(lambda: open_run_folder(loaded) if who.is_rank_0 else None)
    together(lambda: _open_log(config, who))
    _announce(config, backend, who, materials, checkpoint)
    watchdog.at("preparing", patience=start_patience(config))
    engine = together(lambda: build_engine(config, backend, who, checkpoint))
    if checkpoint is not None:
        watchdog.at("loading the checkpoint", patience=PATIENCE)
        load_checkpoint(engine, checkpoint, who)
    watchdog.watch_modules(engine.module)
    step = checkpoint.step if checkpoint else 0
    tracker = together(lambda: _start_tracking(config, materials, checkpoint, who))
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
        stop=_prepare_to_stop(config, engine, checkpoint, who, signals),
        watchdog=watchdog,
        checkpoint=checkpoint,
        step=step,
        saved_step=step,
    )


def _check(loaded: LoadedConfig) -> Materials:
    deepspeed_settings(loaded.config)
    return gather_materials(loaded.config)


def _make_loader(config: RunConfig, materials: Materials, backend: Backend, who: ClusterInfo) -> PackLoader:
    return PackLoader(
        materials.plan,
        SourcesReader(materials.index, config.shards),
        materials.processor,
        config.packing,
        rank=who.rank,
        ranks=who.num_ranks,
        device_pin=backend.device.type == "cuda",
        ranks_on_node=who.ranks_per_node,
    )


def _prepare_to_stop(
    config: RunConfig, engine: Any, checkpoint: Checkpoint | None, who: ClusterInfo, signals: StopSignals
) -> Stop:
    guess_seconds = predicted_bytes(engine) * who.num_ranks / _SAVE_BYTES_PER_SECOND
    return Stop(
        signals,
        who,
        save_seconds=checkpoint.seconds if checkpoint else guess_seconds,
        spare_seconds=config.checkpoints.spare_seconds,
        group_timeout=timedelta(minutes=timeout_minutes(config)),
    )


def _start_tracking(
    config: RunConfig, materials: Materials, checkpoint: Checkpoint | None, who: ClusterInfo
) -> Tracker:
    reported = 0 if checkpoint is None else checkpoint.step - (checkpoint.unreported is not None)
    with held_back():  # W&B's own process must outlive a request to stop, for the last metrics
        return start_tracking(
            config.tracking,
            Path(config.run_folder),
            config.model_dump(),
            total_steps=materials.total_steps,
            first_step=reported + 1,
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
    plan, packing = materials.plan, config.packing
    tell(who, f"{who.num_ranks} ranks on {who.num_nodes} nodes, started by {who.launcher}: {backend.reason}")
    tell(
        who,
        f"{plan.lengths.documents} documents in packs of up to {packing.pack_tokens} tokens "
        f"({plan.fill_ahead():.1%} full), {materials.total_steps} steps of {packing.packs_per_step} packs",
    )
    for warning in warnings_of(materials, config, who.num_ranks) if who.is_rank_0 else ():
        log.warning("%s", warning)
    if checkpoint is not None:
        tell(who, f"going on at step {checkpoint.step} from {checkpoint.folder}")


def tell(who: ClusterInfo, text: str) -> None:
    """One line for the rank's log, and from rank 0 for the person."""
    log.info(text)
    if who.is_rank_0:
        say(text)
