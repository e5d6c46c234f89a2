"""The loader: the plan's packs in the plan's order on every number of ranks and processes, damage named."""

import multiprocessing
import os
import signal
from collections.abc import Callable

import numpy as np
import pytest

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.errors import RunError, ShardError
from phi3v_dist.packing.loader import PackLoader
from phi3v_dist.packing.order import Source
from phi3v_dist.packing.plan import Plan

LENGTHS = np.random.default_rng(3).integers(4, 30, 60)


@pytest.fixture
def make_loader(number_reader: Callable, number_processor: Callable) -> Callable[..., PackLoader]:
    def make(workers: int = 0, rank: int = 0, ranks: int = 1, lengths: np.ndarray = LENGTHS, **reader: object):
        options = PackingOptions(pack_tokens=64, packs_per_step=5, workers=workers, prefetch_packs=2)
        shards = np.arange(0, 75, 15).repeat(2)[1:-1].reshape(4, 2)
        plan = Plan(LENGTHS, np.full(len(LENGTHS), 2), LENGTHS, [Source(shards)], options, 0)
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


def test_waiting_is_measured(make_loader: Callable):
    loader = make_loader()
    _read(loader, 0, 2)
    assert loader.wait_seconds > 0


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
