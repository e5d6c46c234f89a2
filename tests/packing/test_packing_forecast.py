"""The forecast tells what training will meet: its numbers are those of the steps, counted plainly."""

import numpy as np
import pytest
from test_packing_plan import make_plan

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.packing.balance import pack_costs
from phi3v_dist.packing.forecast import forecast
from phi3v_dist.packing.order import Source
from phi3v_dist.packing.plan import Plan

LENGTHS = np.random.default_rng(4).integers(5, 60, 900)


@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_its_numbers_are_those_of_the_steps(ranks: int):
    plan = make_plan(LENGTHS, packs_per_step=10, balance_steps=3, group_packs=4)
    told = forecast(plan, ranks, quiet=True)
    steps = [plan.step(number) for number in range(told.steps)]
    packs = [pack for step in steps for pack in step.packs]
    assert (told.packs, told.tokens) == (len(packs), LENGTHS.sum())
    assert told.crops == (LENGTHS // 9).sum()
    assert told.supervised_tokens == (LENGTHS // 2).sum()
    assert told.packs_without_picture == sum((LENGTHS[pack] // 9).sum() == 0 for pack in packs)
    assert told.fill == pytest.approx(LENGTHS.sum() / (64 * len(packs)))
    waited = worked = 0.0
    for step in steps:
        for first in range(0, len(step.packs), ranks):
            row = [
                pack_costs(plan.tokens[pack].astype(np.int64), plan.crops[pack].astype(np.int64), np.array([0]))[:, 0]
                for pack in step.packs[first : first + ranks]
            ]
            waited += max(vision for vision, _ in row) + max(language for _, language in row)
            worked += sum(map(sum, row)) / ranks
    assert told.phase_imbalance == pytest.approx(waited / worked)
    assert told.violations == []
    assert told.fill <= told.bound <= 1


def test_the_idle_share_is_told_with_the_nearest_number_that_has_none():
    told = forecast(make_plan(LENGTHS, packs_per_step=10), 8, quiet=True)
    assert told.idle_share == pytest.approx(6 / 16)
    assert told.packs_per_step_without_idle == 8
    assert "packing.packs_per_step=8 leaves no rank idle" in told.advice


def test_a_better_pack_length_near_by_is_found():
    """Documents of 33 tokens: one of them in 64, two in 66."""
    told = forecast(make_plan([33] * 400, packs_per_step=10), 2, quiet=True)
    assert told.fill == pytest.approx(33 / 64)
    assert told.bound == pytest.approx(33 / 64, rel=1e-3)
    assert told.fill_by_pack_tokens[80] == pytest.approx(66 / 80)
    assert told.advice == ["packing.pack_tokens=48 fills 68.8%", "packing.pack_tokens=80 fills 82.5%"]


def test_the_bound_counts_a_document_as_often_as_it_is_taken():
    tokens = np.array([60] * 20 + [4] * 20)
    sources = [Source(np.array([[0, 20]])), Source(np.array([[20, 40]]), 5.0)]
    plan = Plan(tokens, tokens // 2, tokens // 9, sources, PackingOptions(pack_tokens=64, packs_per_step=4), 0)
    told = forecast(plan, 2, quiet=True)
    assert told.fill <= told.bound + 1e-9


def test_no_length_is_tried_that_would_leave_documents_out():
    told = forecast(make_plan([50] * 300 + [64], packs_per_step=10), 2, quiet=True)
    assert min(told.fill_by_pack_tokens) >= 64


def test_long_documents_are_counted():
    told = forecast(make_plan([10] * 50 + [65, 99], long_documents="drop"), 2, quiet=True)
    assert (told.documents, told.long_documents, told.dropped) == (50, 2, 2)
