"""The plan: every document once per epoch, no pack over its budget, the same steps whatever the ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.catalog.split import code_digest
from phi3v_dist.config.options import PackingOptions
from phi3v_dist.errors import DocumentError
from phi3v_dist.packing.order import Source
from phi3v_dist.packing.plan import Plan
from phi3v_dist.packing.steps import step_sizes
from phi3v_dist.shards.placing import Earlier, place


def make_plan(lengths: list[int] | np.ndarray, shard_size: int = 10, seed: int = 0, **options: object) -> Plan:
    tokens = np.asarray(lengths, dtype=np.int32)
    firsts = np.arange(0, len(tokens), shard_size)
    shards = np.stack([firsts, np.minimum(firsts + shard_size, len(tokens))], axis=1)
    sizes = {"pack_tokens": 64, "window_packs": 1, **options}
    return Plan(tokens, tokens // 2, tokens // 9, [Source(shards)], PackingOptions(**sizes), seed)


def as_lists(plan: Plan, numbers: list[int] | range) -> list:
    return [[pack.tolist() for pack in plan.step(number).packs] for number in numbers]


def steps_of(plan: Plan, epoch: int) -> list:
    first = sum(plan.steps_per_epoch(earlier) for earlier in range(epoch))
    return [plan.step(first + place) for place in range(plan.steps_per_epoch(epoch))]


many_lengths = st.lists(st.integers(1, 64), min_size=1, max_size=150)
small = st.integers(1, 12)


crossed = st.fixed_dictionaries(
    {
        "window_shards": st.integers(1, 4),
        "packs_per_step": small,
        "balance_steps": small,
        "group_packs": small,
        "pool_documents": st.integers(1, 60),
        "choose_documents": st.integers(1, 20),
    }
)


@given(many_lengths, st.integers(1, 30), crossed, st.integers(0, 3))
def test_every_document_once_per_epoch(lengths: list, shard_size: int, sizes: dict, epoch: int):
    plan = make_plan(lengths, shard_size, **sizes)
    first = sum(plan.steps_per_epoch(earlier) for earlier in range(epoch))
    steps = steps_of(plan, epoch)
    packs = [pack for step in steps for pack in step.packs]
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))
    assert all(plan.tokens[pack].sum() <= 64 for pack in packs)
    assert {step.epoch for step in steps} == {epoch}
    assert [step.step for step in steps] == list(range(first, first + len(steps)))
    assert sum(step.weight for step in steps) == (np.array(lengths) // 2).sum()
    assert [len(step.packs) for step in steps] == step_sizes(len(packs), sizes["packs_per_step"])


@given(many_lengths, st.integers(1, 20), st.integers(2, 4))
def test_a_pack_never_spans_two_windows(lengths: list, shard_size: int, window: int):
    plan = make_plan(lengths, shard_size, window_shards=window)
    windows = [set(plan.window_packs(1, number).documents.tolist()) for number in range(plan.windows_per_epoch(1))]
    assert all(any(set(pack.tolist()) <= part for part in windows) for step in steps_of(plan, 1) for pack in step.packs)
    assert sum(map(len, windows)) == len(lengths)


LENGTHS = np.random.default_rng(1).integers(1, 60, 300)


@pytest.mark.parametrize("balance", [1, 3, 8])
def test_steps_are_the_same_whichever_is_asked_first(balance: int):
    forward, backward = (make_plan(LENGTHS, packs_per_step=7, balance_steps=balance) for _ in range(2))
    steps = 3 * forward.steps_per_epoch()
    reverse = {number: [pack.tolist() for pack in backward.step(number).packs] for number in reversed(range(steps))}
    assert as_lists(forward, range(steps)) == [reverse[number] for number in range(steps)]


def test_windows_packed_side_by_side_are_those_packed_one_by_one():
    one_by_one, side_by_side = (make_plan(LENGTHS, packs_per_step=7, window_shards=1) for _ in range(2))
    counts = [len(one_by_one.window_packs(0, window)) for window in range(one_by_one.windows_per_epoch())]
    assert len(counts) == 30
    side_by_side.packs_per_epoch()
    assert side_by_side.packs_known()[0].tolist() == counts
    for window in range(30):
        told, wanted = (plan.window_packs(0, window) for plan in (side_by_side, one_by_one))
        assert told.documents.tolist() == wanted.documents.tolist()


def test_a_remembered_count_finds_a_step_without_packing_what_lies_before_it():
    options = {"packs_per_step": 4, "balance_steps": 2, "window_shards": 1}
    told = make_plan(LENGTHS, **options)
    wanted = as_lists(told, [60])
    fresh = make_plan(LENGTHS, **options)
    fresh.recall(told.packs_known())
    packed: list[tuple[int, int]] = []
    inner = fresh.window_packs
    fresh.window_packs = lambda epoch, window: packed.append((epoch, window)) or inner(epoch, window)  # type: ignore
    assert as_lists(fresh, [60]) == wanted
    assert 0 < len(set(packed)) <= 4


@pytest.mark.parametrize("wrong", [[3, 4], [0] * 30, [-7] * 30, [5] * 31])
def test_counts_that_cannot_be_this_plan_s_are_not_taken_over(wrong: list[int]):
    options = {"packs_per_step": 4, "window_shards": 1}
    told = make_plan(LENGTHS, **options)
    assert told.windows_per_epoch() == 30
    fresh = make_plan(LENGTHS, **options)
    fresh.step(3)
    fresh.recall({0: np.array(wrong, np.int32)})
    assert fresh.packs_per_epoch() == told.packs_per_epoch()


def test_the_first_step_packs_only_the_windows_it_needs():
    plan = make_plan(np.full(10_000, 30), 100, packs_per_step=4, balance_steps=2, window_shards=1)
    plan.step(0)
    known = plan.packs_known()[0]
    assert len(known) == 100
    assert (known >= 0).sum() == 1


def test_epochs_and_seeds_differ():
    plan = make_plan(LENGTHS)
    packs = [[pack.tolist() for step in steps_of(plan, epoch) for pack in step.packs] for epoch in range(3)]
    assert packs[0] != packs[1] != packs[2]
    other = [pack.tolist() for step in steps_of(make_plan(LENGTHS, seed=1), 0) for pack in step.packs]
    again = [pack.tolist() for step in steps_of(make_plan(LENGTHS), 0) for pack in step.packs]
    assert packs[0] != other
    assert packs[0] == again


def test_samples_outside_the_shards_stay_out():
    tokens = np.full(10, 8)
    plan = Plan(tokens, tokens, tokens, [Source(np.array([[1, 3], [8, 9]]))], PackingOptions(pack_tokens=64), 0)
    assert sorted(np.concatenate(plan.step(0).packs).tolist()) == [1, 2, 8]
    assert plan.lengths.documents == 3


def test_a_weighted_source_is_taken_so_often():
    tokens = np.full(60, 8)
    sources = [Source(np.array([[0, 40]])), Source(np.array([[40, 60]]), 2.5)]
    plan = Plan(tokens, tokens, tokens, sources, PackingOptions(pack_tokens=64, packs_per_step=3), 0)
    counts = [
        np.bincount(np.concatenate([p for step in steps_of(plan, epoch) for p in step.packs])) for epoch in (0, 1)
    ]
    assert counts[0][:40].tolist() == counts[1][:40].tolist() == [1] * 40
    assert counts[0][40:].sum() == 50
    assert (counts[0] + counts[1])[40:].tolist() == [5] * 20


# -- documents longer than a pack


def test_long_documents_are_dropped():
    plan = make_plan([10, 65, 99, 64], long_documents="drop", shard_size=2)
    assert sorted(np.concatenate(plan.step(0).packs).tolist()) == [0, 3]


def test_a_step_weighs_what_is_left_of_truncated_documents():
    tokens, supervised = np.array([10, 70, 90, 64]), np.array([5, 20, 20, 30])
    options = PackingOptions(pack_tokens=64, long_documents="truncate")
    plan = Plan(tokens, supervised, tokens, [Source(np.array([[0, 4]]))], options, 0)
    assert plan.step(0).weight == 5 + 14 + 30


def test_nothing_left_to_pack_is_said():
    with pytest.raises(DocumentError, match="no document is left"):
        make_plan([99], long_documents="drop")


# -- a run


def test_fill_is_tokens_over_room():
    assert make_plan([32, 32, 32]).fill_ahead() == 96 / 128


def test_steps_of_a_run_are_counted_epoch_by_epoch():
    plan = make_plan(LENGTHS, packs_per_step=7)
    whole = plan.steps_per_epoch(0) + plan.steps_per_epoch(1)
    assert plan.steps_in(2.0) == whole
    assert plan.steps_in(2.5) == whole + round(0.5 * plan.steps_per_epoch(2))
    assert plan.steps_in(0.001) == 1


def test_steps_of_a_very_large_run_are_estimated_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch):
    lengths = np.random.default_rng(1).integers(1, 60, 20_000)
    options = {"packs_per_step": 7, "window_shards": 4}
    counted = make_plan(lengths, **options).steps_in(2.0)
    monkeypatch.setattr("phi3v_dist.packing.plan._COUNTED_DOCUMENTS", 1000)
    plan, asked_late = make_plan(lengths, **options), make_plan(lengths, **options)
    asked_late.step(50)
    assert plan.steps_in(2.0) == asked_late.steps_in(2.0)
    assert abs(plan.steps_in(2.0) / counted - 1) < 0.01
    assert (plan.packs_known()[0] < 0).sum() > 300


def test_plan_needs_no_torch():
    import subprocess
    import sys

    code = "import sys; import phi3v_dist.packing.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- no bias of order


def test_packs_of_a_window_come_in_chance_order():
    """The last one packed is half empty: it must not always be the last of its window."""
    lengths = np.full(41, 16)
    places = set()
    for seed in range(20):
        packs = make_plan(lengths, 41, seed=seed).window_packs(0, 0).as_lists()
        places.add(min(range(len(packs)), key=lambda place, packs=packs: len(packs[place])))
    assert len(places) > 5


def hold_to_chance(values: np.ndarray) -> None:
    """Lag-1 autocorrelation and slope of a value of each step: within 3/√n of zero."""
    centred = values - values.mean()
    bound = 3 / np.sqrt(len(values))
    assert abs((centred[1:] * centred[:-1]).sum() / (centred**2).sum()) < bound
    assert abs(np.corrcoef(np.arange(len(values)), values)[0, 1]) < bound


def mean_lengths(plan: Plan, steps: list) -> np.ndarray:
    return np.array([np.mean([plan.tokens[pack].mean() for pack in step.packs]) for step in steps])


def test_neighbouring_steps_are_as_independent_as_chance_and_an_epoch_has_no_trend():
    """Mean length and share of pictures of each step."""
    random = np.random.default_rng(3)
    kind = random.random(120_000)
    lengths = np.where(kind < 0.6, random.integers(90, 130, 120_000), random.integers(5, 400, 120_000))
    plan = make_plan(lengths, 1000, pack_tokens=1024, packs_per_step=64, window_shards=16, window_packs=2048)
    steps = steps_of(plan, 0)[:-1]  # the last may be of another size
    pictures = kind < 0.6
    hold_to_chance(mean_lengths(plan, steps))
    hold_to_chance(np.array([pictures[np.concatenate(step.packs)].mean() for step in steps]))


def test_so_are_they_of_a_table_that_is_sorted_by_category():
    """Shards as ``make_shards`` lays them: 30 categories one after the other, each with lengths of its own."""
    count, categories = 60_000, 30
    category = np.repeat(np.arange(categories), count // categories)
    lengths = 80 + 8 * category + np.random.default_rng(5).integers(0, 20, count)
    digests = np.stack([code_digest(f"P{number:06d}") for number in range(count)])
    order = place(digests, np.arange(count), None, Earlier(), 0.0).order["train"]
    plan = make_plan(lengths[order], 500, pack_tokens=1024, packs_per_step=64, window_shards=16, window_packs=1024)
    steps = steps_of(plan, 0)[:-1]
    hold_to_chance(mean_lengths(plan, steps))
    for one in (0, 14, 29):
        hold_to_chance(np.array([(category[order][np.concatenate(step.packs)] == one).mean() for step in steps]))
