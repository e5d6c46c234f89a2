"""Steps on any number of ranks: every pack once, nobody idle where the number of packs is good."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.packing.steps import (
    StepPlan,
    idle_advice,
    idle_share,
    micro_steps,
    nearest_without_idle,
    pack_of,
    step_sizes,
)


@given(st.integers(1, 500), st.integers(1, 100))
def test_left_over_packs_make_no_tiny_step(packs: int, packs_per_step: int):
    sizes = step_sizes(packs, packs_per_step)
    assert sum(sizes) == packs
    if packs >= packs_per_step:
        assert all(packs_per_step / 2 <= size < 1.5 * packs_per_step for size in sizes)
        assert all(size == packs_per_step for size in sizes[:-1])
    else:
        assert sizes == [packs]


@given(st.integers(1, 40), st.integers(1, 17))
def test_ranks_share_a_step_without_gap_or_overlap(packs: int, ranks: int):
    step = StepPlan(0, 0, [np.array([number]) for number in range(packs)], packs)
    taken = [
        [pack_of(step, micro_step, rank, ranks) for rank in range(ranks)]
        for micro_step in range(micro_steps(packs, ranks))
    ]
    flat = [pack for row in taken for pack in row]
    assert [pack.tolist() for pack in flat if pack is not None] == [pack.tolist() for pack in step.packs]
    assert all(pack is None for pack in flat[packs:])  # blank packs in the last row alone
    assert len(flat) - packs < ranks


@given(st.integers(1, 600), st.integers(1, 200))
def test_the_idle_share_is_that_of_blank_packs(packs: int, ranks: int):
    step = StepPlan(0, 0, [np.array([number]) for number in range(packs)], packs)
    taken = [pack_of(step, row, rank, ranks) for row in range(micro_steps(packs, ranks)) for rank in range(ranks)]
    assert abs(idle_share(packs, ranks) - sum(pack is None for pack in taken) / len(taken)) < 1e-12


def test_384_packs_suit_many_numbers_of_ranks():
    """Figures of facts/data.md, section 4, there as idle time over work."""
    assert [idle_share(384, ranks) for ranks in (6, 8, 12, 16, 24, 32, 48, 64, 96, 128)] == [0.0] * 10
    assert round(1 / (1 - idle_share(384, 80)) - 1, 2) == 0.04
    assert round(1 / (1 - idle_share(256, 120)) - 1, 2) == 0.41


@given(st.integers(1, 600), st.integers(1, 200))
def test_the_number_that_is_named_leaves_nobody_idle_and_is_the_nearest(packs: int, ranks: int):
    good = nearest_without_idle(packs, ranks)
    assert idle_share(good, ranks) == 0
    assert all(idle_share(other, ranks) > 0 for other in range(1, 900) if abs(other - packs) < abs(good - packs))


def test_idle_ranks_are_told_the_nearest_number_of_packs_without():
    assert idle_advice(384, 384, 64) == idle_advice(98, 98, 100) == ""  # none; 2 %
    told = idle_advice(384, 384, 80)
    assert told.startswith("packing.packs_per_step=384 leaves 80 ranks idle for 4% of the time; ")
    assert told.endswith("nearest without: packing.packs_per_step=400")


@pytest.mark.parametrize(("packs", "enough"), [(29, 29), (100, 50), (400, 58)])
def test_where_an_epoch_is_one_step_fewer_ranks_are_as_quick(packs: int, enough: int):
    found = idle_advice(packs, 384, 64)
    assert found.startswith(f"an epoch has {packs} packs") and found.endswith(f"; {enough} ranks would be as quick")
    assert micro_steps(packs, enough) == micro_steps(packs, 64)
    assert idle_share(packs, enough) < 0.02 < idle_share(packs, 64)
