"""The loader: the plan's packs in the plan's order on every number of ranks and processes, damage named."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.errors import LostRankError, RunError, ShardError
from phi3v_dist.packing import loader as loader_module
from phi3v_dist.packing.loader import PackLoader
from phi3v_dist.packing.order import Source
from phi3v_dist.packing.plan import Plan
from phi3v_dist.packing.shared_memory import largest_batch_bytes

LENGTHS = np.random.default_rng(3).integers(4, 30, 60)


@pytest.fixture
def make_loader(number_reader: Callable, number_processor: Callable) -> Callable[..., PackLoader]:
    def make(
        workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
        lengths: np.ndarray = LENGTHS,
        wait_minutes: float = 5.0,
        planned: np.ndarray = LENGTHS,
        long_documents: str = "error",
        **reader: object,
    ):
        options = PackingOptions(
            pack_tokens=64,
            packs_per_step=5,
            workers=workers,
            prefetch_packs=2,
            wait_minutes=wait_minutes,
            long_documents=long_documents,
        )
        shards = np.arange(0, 75, 15).repeat(2)[1:-1].reshape(4, 2)
        supervised = np.where(planned > 64, 20, 2)
        plan = Plan(planned, supervised, planned, [Source(shards)], options, 0)
        return PackLoader(plan, number_reader(**reader), number_processor(lengths), options, rank=rank, ranks=ranks)

    return make


def _read(loader: PackLoader, first: int, last: int) -> list[list[list[int]]]:
    """Samples of each batch of each step; a blank pack is []."""
    return [
        [batch.samples.tolist() if batch.weight else [] for batch in batches]
        for _, batches in loader.steps(first, last)
    ]


@pytest.mark.parametrize(("workers", "ranks"), [(0, 1), (0, 2), (0, 7), (2, 1), (2, 2)])
def test_ranks_together_read_the_plan(make_loader: Callable, workers: int, ranks: int):
    loaders = [make_loader(workers, rank, ranks) for rank in range(ranks)]
    of_rank = [_read(loader, 1, 6) for loader in loaders]
    for place, number in enumerate(range(1, 6)):
        planned = [pack.tolist() for pack in loaders[0].plan.step(number).packs]
        rows = zip(*(steps[place] for steps in of_rank), strict=True)  # as many micro-steps on every rank
        taken = [pack for row in rows for pack in row]
        assert taken[: len(planned)] == planned
        assert all(pack == [] for pack in taken[len(planned) :])


def test_weight_of_a_step_is_what_its_batches_score(make_loader: Callable):
    for step, batches in make_loader().steps(0, 4):
        assert step.weight == sum(len(batch.supervised) for batch in batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_left_over_batches_are_skipped_with_their_step(make_loader: Callable, workers: int):
    loader = make_loader(workers)
    firsts = [next(batches).samples.tolist() for _, batches in loader.steps(0, 3)]
    assert firsts == [loader.plan.step(number).packs[0].tolist() for number in range(3)]
    steps = loader.steps(0, 3)  # left in the middle, and begun again on the same processes
    next(steps)
    assert _read(loader, 2, 3) == [[pack.tolist() for pack in loader.plan.step(2).packs]]


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_sample_is_blank_and_named(make_loader: Callable, workers: int):
    loader, whole = make_loader(workers, damaged=(7, 11)), make_loader()
    steps = loader.plan.steps_per_epoch()
    batches = [batch for _, part in loader.steps(0, steps) for batch in part]
    assert sorted(damage for batch in batches for damage in batch.damaged) == [
        (7, "train/0.tar, byte 512, key k: truncated"),
        (11, "train/0.tar, byte 512, key k: truncated"),
    ]
    assert sum(len(batch.supervised) for batch in batches) == 2 * (len(LENGTHS) - 2)
    shapes = [(batch.input_ids.shape, batch.crops.shape) for _, part in whole.steps(0, steps) for batch in part]
    assert [(batch.input_ids.shape, batch.crops.shape) for batch in batches] == shapes


def test_document_of_another_length_than_planned_is_damaged(make_loader: Callable):
    lengths = LENGTHS.copy()
    lengths[7] += 1
    loader = make_loader(lengths=lengths)
    batches = [batch for _, part in loader.steps(0, loader.plan.steps_per_epoch()) for batch in part]
    damage = [damage for batch in batches for damage in batch.damaged]
    assert damage == [(7, f"{lengths[7]} tokens, the index promised {LENGTHS[7]}")]


@pytest.mark.parametrize("workers", [0, 1])
def test_user_error_keeps_its_kind_and_line(make_loader: Callable, workers: int):
    loader = make_loader(workers, gone=7)
    with pytest.raises(ShardError, match=r"^train/0.tar: can't be read \(found 7\). Mount the disk$"):
        _read(loader, 0, loader.plan.steps_per_epoch())


def test_killed_loader_process_is_a_run_error(make_loader: Callable):
    loader = make_loader(workers=1)
    steps = loader.steps(0, 20)
    next(steps)
    os.kill(loader._loader._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(RunError, match=r"data rank 0: a loader process died.*packing.workers"):
        list(steps)


def test_stopped_loader_process_is_a_run_error_and_is_gone(make_loader: Callable):
    loader = make_loader(workers=2, wait_minutes=0.02)
    steps = loader.steps(0, 20)
    next(steps)
    processes = loader._loader._iterator._workers
    os.kill(processes[1].pid, signal.SIGSTOP)
    with pytest.raises(RunError, match=r"data rank 0: no batch came .* 0.02 minutes.*\(found 'k\d+ in train/0.tar, k"):
        list(steps)
    for process in processes:
        process.join(10)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2
    loader.close()


def test_samples_of_the_pack_that_hangs_are_named(make_loader: Callable):
    hanging = make_loader().plan.step(1).packs[2].tolist()
    loader = make_loader(workers=2, wait_minutes=0.02, hanging=hanging[:1])
    steps = loader.steps(0, 3)
    _, batches = next(steps)
    assert len(list(batches)) == 5
    _, batches = next(steps)
    assert [next(batches).samples.tolist() for _ in range(2)] == [
        pack.tolist() for pack in loader.plan.step(1).packs[:2]
    ]
    named = ", ".join(f"k{number} in train/0.tar" for number in hanging[:5])
    with pytest.raises(RunError) as failure:
        next(batches)
    assert failure.value.value.startswith(named) and not failure.value.on_every_rank


def test_no_more_packs_are_made_ahead_than_shared_memory_may_hold(make_loader: Callable, number_reader: type):
    made = multiprocessing.Value("i")

    class CountingReader(number_reader):
        def samples(self, numbers: list[int]):
            with made.get_lock():
                made.value += 1
            return super().samples(numbers)

    whole = make_loader(workers=2)
    room = 4 * largest_batch_bytes(64) / 1e9  # one pack per process, the batch in use, and the next one
    options = whole.plan.options.model_copy(update={"shared_memory_gb": room})
    processor = whole._loader.dataset._processor
    loader = PackLoader(whole.plan, CountingReader(), processor, options, rank=0, ranks=1)
    taken = 0
    for _, batches in loader.steps(0, 2):
        for _ in batches:
            taken += 1
            time.sleep(0.2)  # long enough for ten packs
            assert made.value <= taken + 2
    assert taken == made.value == 10


def test_a_slow_batch_is_waited_for(make_loader: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loader_module, "_LOOK_SECONDS", 0.05)  # many looks within one wait
    loader = make_loader(workers=1, delay=0.1)
    for _ in range(2):  # also when processes begin anew
        assert len(_read(loader, 0, 1)) == 1
        next(loader.steps(0, 20))


@pytest.mark.parametrize("word", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_loader_process_that_dies_as_it_hands_a_batch_over_is_a_run_error(make_loader: Callable, word: Exception):
    """Its tensors are fetched from the process itself; killed just then it breaks the connection."""

    def broken():
        raise word
        yield

    loader = make_loader()
    with pytest.raises(RunError, match="data rank 0: a loader process died"):
        next(loader._batches(broken(), loader.plan.step(0)))


def test_a_fault_of_ours_in_a_loader_process_keeps_its_traceback(make_loader: Callable):
    loader = make_loader(workers=1, damaged=None)  # TypeError: no container
    with pytest.raises(TypeError, match="Traceback"):
        _read(loader, 0, 1)


_RUN = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from conftest import NumberProcessor, NumberReader
from phi3v_dist.config.options import PackingOptions
from phi3v_dist.console import run_command
from phi3v_dist.packing.loader import PackLoader
from phi3v_dist.packing.order import Source
from phi3v_dist.packing.plan import Plan

def main():
    lengths = np.full(40, 20)
    options = PackingOptions(pack_tokens=64, packs_per_step=5, workers=2, wait_minutes=0.03)
    plan = Plan(lengths, np.full(40, 2), lengths, [Source(np.array([[0, 40]]))], options, 0)
    reader = NumberReader(hanging=tuple(range(20)))
    loader = PackLoader(plan, reader, NumberProcessor(lengths), options, rank=3, ranks=4)
    for _, batches in loader.steps(0, 2):
        for _ in batches:
            pass

sys.exit(run_command(main))
"""


def test_a_command_whose_loader_hangs_ends_with_one_line_and_leaves_no_process():
    command = [sys.executable, "-c", _RUN, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, start_new_session=True, check=False)
    assert done.returncode == LostRankError.exit_code  # another attempt, on another node, may help
    assert done.stderr.startswith("ERROR data rank 3: no batch came") and done.stderr.count("\n") == 1
    # subprocess.run has read both pipes to their end: nobody who inherited them lives


def test_waiting_is_measured(make_loader: Callable):
    loader = make_loader(delay=0.02)
    taken = sum(len(pack) for step in _read(loader, 0, 2) for pack in step)
    assert loader.wait_seconds >= 0.02 * taken


def test_a_long_document_is_cut_to_what_was_planned_and_keeps_picture_and_end(make_loader: Callable):
    lengths = LENGTHS.copy()
    lengths[20:40] = 70  # a pack has 64
    loader = make_loader(lengths=lengths, planned=lengths, long_documents="truncate")
    found = []
    for step, batches in loader.steps(0, loader.plan.steps_per_epoch()):
        weights = 0
        for batch in batches:
            assert not batch.damaged
            weights += batch.weight and len(batch.targets)
            ends = batch.cu_seqlens.tolist()
            for sample, first, end in zip(batch.samples.tolist(), ends, ends[1:], strict=False):
                ids = batch.input_ids[first:end].tolist()
                if sample in range(20, 40):
                    assert (len(ids), ids[0], ids[-1]) == (64, -1, 1)
                    found.append(sample)
        assert step.weight == weights
    assert sorted(found) == list(range(20, 40))


def test_loader_processes_end_with_the_loader_though_they_ignore_the_stop_signals(make_loader: Callable):
    before = multiprocessing.active_children()
    loader = make_loader(workers=2)
    _read(loader, 0, 1)
    processes = [child for child in multiprocessing.active_children() if child not in before]
    assert len(processes) == 2
    for process in processes:
        process.terminate()  # as Slurm does to all of a task
    assert _read(loader, 1, 3)
    loader.close()
    for process in processes:
        process.join(10)
    assert [process.is_alive() for process in processes] == [False] * len(processes)
