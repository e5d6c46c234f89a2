"""Steps → batches of this rank, made ahead by loader processes.

Enters: a plan, a shard reader, a document processor, a data rank. Leaves: for each step its ``StepPlan`` and the
batches of its micro-steps. The plan is asked in the training process and each loader process is handed finished packs
(sample numbers), so none of them packs an epoch itself. A sample that can't be read becomes a blank document of the
planned length: counted, named, never a reason to change the plan.
"""

import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from phi3v_dist.cluster.signals import ignore_stop_signals
from phi3v_dist.config.options import PackingOptions
from phi3v_dist.documents.processor import Document, DocumentProcessor
from phi3v_dist.errors import LostRankError, RunError, UserError
from phi3v_dist.images import ImageError
from phi3v_dist.packing.collate import Batch, blank_batch, collate
from phi3v_dist.packing.plan import Plan
from phi3v_dist.packing.shared_memory import prefetch_depth
from phi3v_dist.packing.steps import Numbers, StepPlan, micro_steps, pack_of
from phi3v_dist.shards.read import DamagedSample, Sample
from phi3v_dist.shards.sources import SourcesReader

_TIMED_OUT, _DIED = "DataLoader timed out", "DataLoader worker (pid"  # how the DataLoader's words begin
_LOOK_SECONDS = 5.0
_SAMPLES_NAMED = 5


class PackLoader:
    """Batches of one data rank. ``wait_seconds``: how long the caller has waited for batches so far.

    ``device_pin``: hand out batches in pinned memory. ``ranks_on_node``: how many share its /dev/shm. With
    ``options.workers`` 0 batches are made when asked for. Raises ConfigError or RunError where shared memory is small.
    """

    def __init__(
        self,
        plan: Plan,
        reader: SourcesReader,
        processor: DocumentProcessor,
        options: PackingOptions,
        *,
        rank: int,
        ranks: int,
        device_pin: bool = False,
        ranks_on_node: int = 1,
    ) -> None:
        """Make the loader; its processes start with the first step and stay."""
        self.plan = plan
        self.rank = rank
        self.ranks = ranks
        self.wait_seconds = 0.0
        self._upcoming = _Upcoming()
        self._index = reader.index
        self._longest_wait_seconds = 60 * options.wait_minutes
        several: dict[str, Any] = {}
        if options.workers:
            depth = prefetch_depth(options, ranks_on_node)
            several = {"prefetch_factor": depth, "persistent_workers": True, "timeout": self._longest_wait_seconds}
        self._loader = DataLoader(
            _PackDataset(plan, reader, processor),
            sampler=self._upcoming,
            batch_size=None,
            num_workers=options.workers,
            # fork: a loader process is there at once and shares the index's memory; it never touches the device
            multiprocessing_context="fork" if options.workers else None,
            worker_init_fn=_start_worker,
            pin_memory=device_pin,
            **several,
        )
        self._end = weakref.finalize(self, _end_processes, self._loader)

    def steps(self, first_step: int, last_step: int) -> Iterator[tuple[StepPlan, Iterator[Batch]]]:
        """Yield (step, its batches of this rank) for ``first_step`` ≤ step < ``last_step``.

        Batches that the caller leaves over are skipped with their step. One such iterator at a time. Raises RunError
        where a loader process dies or hangs, and whatever UserError one meets.
        """
        self._upcoming.packs = self._packs(first_step, last_step)
        started = time.monotonic()
        with self._failures_named():
            made = _iterate(self._loader)
        self.wait_seconds += time.monotonic() - started
        for number in range(first_step, last_step):
            step = self.plan.step(number)
            batches = self._batches(made, step)
            yield step, batches
            for _ in batches:
                pass

    def close(self) -> None:
        """End the loader processes; no step can be asked for afterwards. Otherwise they end with this object."""
        self._end()

    def _packs(self, first_step: int, last_step: int) -> Iterator[Numbers | None]:
        """This rank's packs in order; asked ahead of the batches by the DataLoader."""
        for number in range(first_step, last_step):
            step = self.plan.step(number)
            for micro_step in range(micro_steps(len(step.packs), self.ranks)):
                yield pack_of(step, micro_step, self.rank, self.ranks)

    def _batches(self, made: Iterator[Batch | UserError], step: StepPlan) -> Iterator[Batch]:
        for micro_step in range(micro_steps(len(step.packs), self.ranks)):
            started = time.monotonic()
            with self._failures_named(pack_of(step, micro_step, self.rank, self.ranks)):
                batch = self._next(made)
                if isinstance(batch, UserError):
                    raise batch
            self.wait_seconds += time.monotonic() - started
            yield batch

    def _next(self, made: Iterator[Batch | UserError]) -> Batch | UserError:
        """Wait for a batch as long as allowed; every few seconds the DataLoader looks whether its processes live."""
        end = time.monotonic() + self._longest_wait_seconds
        while True:
            try:
                return next(made)
            except RuntimeError as error:
                if _TIMED_OUT not in str(error) or time.monotonic() >= end:
                    raise

    @contextmanager
    def _failures_named(self, pack: Numbers | None = None) -> Iterator[None]:
        """Turn the DataLoader's word on a dead or silent process into a line that a user can act on."""
        try:
            yield
        except UserError as error:
            error.on_every_rank = False  # this rank alone knows it
            raise
        except (RuntimeError, ConnectionError, EOFError) as error:
            if _TIMED_OUT in str(error):
                failure: RunError = self._hung(pack)
            elif _DIED in str(error) or not isinstance(error, RuntimeError):  # or as it handed a batch over
                failure = self._dead(error)
            else:
                raise
            failure.on_every_rank = False
            _kill_processes(self._loader)  # the one that hangs would not end by itself
            raise failure from error

    def _dead(self, error: Exception) -> RunError:
        return RunError(
            f"a loader process died: {error}",
            where=f"data rank {self.rank}",
            mend="Look for its reason in the log and in dmesg (memory?); fewer packing.workers or a smaller "
            "packing.prefetch_packs need less memory, packing.workers=0 loads without processes",
        )

    def _hung(self, pack: Numbers | None) -> LostRankError:
        samples = [] if pack is None else pack.tolist()
        rows = [self._index.row(number) for number in samples[:_SAMPLES_NAMED]]
        named = [f"{row['key']} in {row['shard']}" for row in rows]
        more = f" and {len(samples) - len(rows)} more" if len(samples) > len(rows) else ""
        return LostRankError(
            f"no batch came from the loader processes for {self._longest_wait_seconds / 60:g} minutes, one hangs",
            where=f"data rank {self.rank}",
            value=", ".join(named) + more if named else "a blank pack",
            mend="Look whether the file system of the shards answers; the same command goes on from the last "
            "checkpoint. Where reading is only slow, set a larger packing.wait_minutes",
        )


def _iterate(loader: DataLoader) -> Iterator:
    """Start iterating; from then on the DataLoader looks after its processes every few seconds.

    Its own ``timeout`` would look at the end of the time only. It holds while processes begin anew.
    """
    if loader._iterator is not None:
        loader._iterator._timeout = loader.timeout
    made: Any = _iterate_without_handler(loader)
    if loader.timeout:
        made._timeout = min(loader.timeout, _LOOK_SECONDS)  # torch has no public way
    return made


def _iterate_without_handler(loader: DataLoader) -> Iterator:
    """Start iterating, without the DataLoader's signal handler.

    The handler would raise for a dead process from wherever the training process happens to be; without it the next
    request for a batch finds the dead process within 5 seconds, where we can name it.
    """
    if loader.num_workers:
        # the tokenizer's own threads don't survive a fork; saying so keeps its warning away
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)  # here it sets no handler
    handler = signal.getsignal(signal.SIGCHLD)
    made = iter(loader)
    signal.signal(signal.SIGCHLD, handler)
    return made


def _end_processes(loader: DataLoader) -> None:
    """They ignore the signal by which Python would end them, and it would wait for them for ever at its own end."""
    made: Any = loader._iterator  # torch has no public way
    if made is not None:
        made._shutdown_workers()
        _kill_processes(loader)


def _kill_processes(loader: DataLoader) -> None:
    """End them at once, also those that are stopped or wait for a file system."""
    made: Any = loader._iterator
    for process in made._workers if made is not None else ():
        process.kill()


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the training process, which ends this one
    ignore_stop_signals()  # Slurm sends them to this process too, and the run still needs it for the step in hand


class _Upcoming(Sampler):
    """The packs that loader processes are to make next; set anew for each run over steps."""

    def __init__(self) -> None:
        self.packs: Iterator[Numbers | None] = iter(())

    def __iter__(self) -> Iterator[Numbers | None]:
        return self.packs


class _PackDataset(Dataset):
    """Pack (sample numbers, or None for a blank one) → batch."""

    def __init__(self, plan: Plan, reader: SourcesReader, processor: DocumentProcessor) -> None:
        self._plan = plan
        self._reader = reader
        self._processor = processor

    def __getitem__(self, pack: Numbers | None) -> Batch | UserError:
        try:
            if pack is None:
                return blank_batch(self._processor)
            samples = zip(pack.tolist(), self._reader.samples(pack.tolist()), strict=True)
            return collate([self._document(number, sample) for number, sample in samples])
        except UserError as error:
            return error  # raised where a user sees it; from a loader process only a traceback would arrive

    def _document(self, number: int, sample: Sample | DamagedSample) -> Document:
        """The sample's document, or a blank one of the planned length where the sample is damaged."""
        tokens, planned = int(self._plan.tokens[number]), int(self._plan.lengths.tokens(np.array([number]))[0])
        if isinstance(sample, DamagedSample):
            return self._blank(number, planned, str(sample))
        try:
            document = self._processor.document(sample)
        except ImageError as error:
            return self._blank(number, planned, str(error))
        if len(document.input_ids) != tokens:
            return self._blank(number, planned, f"{len(document.input_ids)} tokens, the index promised {tokens}")
        return document if tokens == planned else document.cut_to(planned)

    def _blank(self, number: int, planned: int, reason: str) -> Document:
        grids = [self._processor.grid(*size) for size in self._reader.index.sizes(number)]
        return self._processor.blank_document(number, grids, planned, reason)
