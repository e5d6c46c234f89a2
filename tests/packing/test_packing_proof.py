"""Each thing that would hang or spoil a run, planted into a good plan, is found and named."""

from dataclasses import replace

import numpy as np
import pytest
from test_packing_plan import make_plan

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.packing import proof
from phi3v_dist.packing.order import Source
from phi3v_dist.packing.plan import Plan
from phi3v_dist.packing.proof import not_once, violations_of
from phi3v_dist.packing.steps import StepPlan

LENGTHS = np.random.default_rng(4).integers(5, 60, 300)


@pytest.fixture
def plan() -> Plan:
    return make_plan(LENGTHS, packs_per_step=10)


def told(plan: Plan, step: StepPlan, ranks: int = 4) -> list[str]:
    return list(violations_of(plan, step, ranks))


@pytest.mark.parametrize("ranks", [1, 4, 7, 30])
def test_a_good_plan_has_none(plan, ranks):
    assert [line for number in range(plan.steps_per_epoch()) for line in told(plan, plan.step(number), ranks)] == []
    counts = np.ones(len(LENGTHS), int)
    assert list(not_once(plan, counts)) == []


def test_a_pack_over_the_budget(plan):
    step = plan.step(2)
    step.packs[3] = np.concatenate([step.packs[3], step.packs[4]])
    tokens = LENGTHS[step.packs[3]].sum()
    assert any(line == f"step 3, pack 3: {tokens} tokens, packing.pack_tokens=64" for line in told(plan, step))


def test_a_step_without_a_supervised_token(plan):
    lengths = LENGTHS.astype(np.int32)
    plan = Plan(lengths, 0 * lengths, lengths // 9, plan.sources, plan.options, plan.seed)
    step = plan.step(0)
    assert told(plan, step) == [
        f"step 1: no supervised token in {sum(map(len, step.packs))} documents, nothing would be learned"
    ]


def test_a_weight_that_is_not_its_documents(plan):
    step = plan.step(1)
    assert told(plan, replace(step, weight=step.weight + 1)) == [
        f"step 2: its weight is {step.weight + 1}, its documents have {step.weight} supervised tokens"
    ]


def test_a_picture_whose_crops_do_not_fit_its_tokens(plan):
    step = plan.step(0)
    number = int(step.packs[0][0])
    plan.crops = plan.crops.copy()
    plan.crops[number] = 99
    (line,) = told(plan, step)
    assert line.startswith(f"step 1, sample {number}: 99 crops and only {LENGTHS[number]} tokens")


def test_ranks_that_share_a_step_wrongly(plan, monkeypatch):
    real = proof.pack_of
    monkeypatch.setattr(
        proof, "pack_of", lambda step, row, rank, ranks: real(step, row, 0 if rank == 1 else rank, ranks)
    )
    assert "step 1: 10 packs, of which the ranks take 7, 10 times" in told(plan, plan.step(0))


def test_a_rank_without_a_pack_before_the_last_row(plan, monkeypatch):
    real = proof.pack_of
    monkeypatch.setattr(
        proof, "pack_of", lambda step, row, rank, ranks: None if (row, rank) == (0, 1) else real(step, row, rank, ranks)
    )
    assert "step 1: 1 blank packs before the last micro-step" in told(plan, plan.step(0))


def test_documents_that_an_epoch_forgets_or_repeats(plan):
    counts = np.ones(len(LENGTHS), int)
    counts[12], counts[17] = 0, 2
    assert list(not_once(plan, counts)) == ["shards.folder, samples 10 to 19: 2 of them not 1 times"]


def test_a_weighted_source_may_be_taken_so_often_and_no_other_number():
    tokens = np.full(20, 8)
    sources = [Source(np.array([[0, 10]]), 2.5)]
    plan = Plan(tokens, tokens // 2, tokens // 9, sources, PackingOptions(pack_tokens=64), 0)
    counts = np.full(20, 2)
    counts[5] = 3
    assert list(not_once(plan, counts)) == []
    counts[6:8] = 1, 4
    assert list(not_once(plan, counts)) == ["shards.folder, samples 0 to 9: 2 of them not 2.5 times"]
