"""The plan: every document once per epoch, no pack over its budget, the same steps whatever the ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.errors import DocumentError
from phi3v_dist.packing.plan import Plan, micro_steps, pack_of


def _plan(lengths: list[int] | np.ndarray, shard_size: int = 10, seed: int = 0, **options: object) -> Plan:
    tokens = np.asarray(lengths, dtype=np.int64)
    numbers = np.arange(len(tokens))
    shards = [numbers[first : first + shard_size] for first in range(0, len(tokens), shard_size)]
    return Plan(tokens, tokens // 2, shards, PackingOptions(**{"pack_tokens": 64, **options}), seed)


def _as_lists(plan: Plan, steps: int) -> list:
    return [[pack.tolist() for pack in plan.step(number).packs] for number in range(steps)]


many_lengths = st.lists(st.integers(1, 64), min_size=1, max_size=150)


@given(many_lengths, st.integers(1, 30), st.integers(1, 4), st.integers(1, 12), st.integers(0, 3))
@settings(deadline=None)
def test_every_document_once_per_epoch(lengths: list, shard_size: int, window: int, packs_per_step: int, epoch: int):
    plan = _plan(lengths, shard_size, window_shards=window, packs_per_step=packs_per_step)
    first = sum(plan.steps_per_epoch(earlier) for earlier in range(epoch))
    steps = [plan.step(first + place) for place in range(plan.steps_per_epoch(epoch))]
    packs = [pack for step in steps for pack in step.packs]
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))
    assert all(plan.tokens[pack].sum() <= 64 for pack in packs)
    assert {step.epoch for step in steps} == {epoch}
    assert [step.step for step in steps] == list(range(first, first + len(steps)))
    assert sum(step.weight for step in steps) == plan.supervised.sum()


@given(many_lengths, st.integers(1, 20), st.integers(2, 4))
@settings(deadline=None)
def test_a_pack_never_spans_two_windows(lengths: list, shard_size: int, window: int):
    plan = _plan(lengths, shard_size, window_shards=window)
    windows = [set(part.tolist()) for part in plan._windows(1)]
    assert all(any(set(pack.tolist()) <= part for part in windows) for pack in plan.packs(1))
    assert max(len(part) for part in windows) <= window * shard_size


@given(st.integers(1, 500), st.integers(1, 100))
@settings(deadline=None)
def test_left_over_packs_make_no_tiny_step(packs: int, packs_per_step: int):
    plan = _plan([64] * packs, packs_per_step=packs_per_step)
    sizes = [len(plan.step(number).packs) for number in range(plan.steps_per_epoch())]
    assert sum(sizes) == packs
    if packs >= packs_per_step:
        assert all(packs_per_step / 2 <= size < 1.5 * packs_per_step for size in sizes)
        assert all(size == packs_per_step for size in sizes[:-1])
    else:
        assert sizes == [packs]


@given(st.integers(1, 40), st.integers(1, 17))
def test_ranks_share_a_step_without_gap_or_overlap(packs: int, ranks: int):
    step = _plan([64] * packs, packs_per_step=1000).step(0)
    taken = [
        [pack_of(step, micro_step, rank, ranks) for rank in range(ranks)]
        for micro_step in range(micro_steps(packs, ranks))
    ]
    flat = [pack for row in taken for pack in row]
    assert [pack.tolist() for pack in flat if pack is not None] == [pack.tolist() for pack in step.packs]
    assert all(pack is None for pack in flat[packs:])  # blank packs in the last row alone
    assert len(flat) - packs < ranks


def test_steps_are_the_same_whichever_is_asked_first():
    lengths = np.random.default_rng(1).integers(1, 60, 300)
    forward, backward = _plan(lengths, packs_per_step=7), _plan(lengths, packs_per_step=7)
    steps = 3 * forward.steps_per_epoch()
    reverse = {number: [pack.tolist() for pack in backward.step(number).packs] for number in reversed(range(steps))}
    assert _as_lists(forward, steps) == [reverse[number] for number in range(steps)]


def test_epochs_and_seeds_differ():
    lengths = np.random.default_rng(1).integers(1, 60, 300)
    plan = _plan(lengths)
    packs = [[pack.tolist() for pack in plan.packs(epoch)] for epoch in range(3)]
    assert packs[0] != packs[1] != packs[2]
    assert packs[0] != [pack.tolist() for pack in _plan(lengths, seed=1).packs(0)]
    assert packs[0] == [pack.tolist() for pack in _plan(lengths).packs(0)]


def test_samples_of_other_splits_stay_out():
    tokens = np.full(10, 8)
    plan = Plan(tokens, tokens, [np.array([1, 3]), np.array([8])], PackingOptions(pack_tokens=64), 0)
    assert sorted(np.concatenate(plan.packs(0)).tolist()) == [1, 3, 8]
    assert plan.documents == 3


def test_long_document_stops_before_training():
    with pytest.raises(DocumentError, match=r"2 documents are longer.*longest has 99.*pack_tokens=99.*drop"):
        _plan([10, 65, 99, 64])


def test_long_documents_are_dropped_and_counted():
    plan = _plan([10, 65, 99, 64], long_documents="drop")
    assert plan.dropped == 2
    assert sorted(np.concatenate(plan.packs(0)).tolist()) == [0, 3]


def test_nothing_left_to_pack_is_said():
    with pytest.raises(DocumentError, match="no document is left"):
        _plan([99], long_documents="drop")


def test_fill_is_tokens_over_room():
    assert _plan([32, 32, 32]).fill() == 96 / 128


def test_plan_needs_no_torch():
    import subprocess
    import sys

    code = "import sys; import phi3v_dist.packing.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_longest_document_is_the_longest_that_takes_part() -> None:
    assert _plan([5, 40, 90, 12], shard_size=2, long_documents="drop").longest_document == 40
