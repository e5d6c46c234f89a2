"""Dealing packs: all dealt once, micro-steps alike in both costs, steps drawn at random."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.costs import ModelSizes, pack_flops
from phi3v_dist.packing.balance import deal_packs, pack_costs


def _random() -> np.random.Generator:
    return np.random.default_rng(5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 50))
def test_every_pack_comes_to_one_step_of_the_right_size(sizes: list[int], group_packs: int):
    costs = np.random.default_rng(1).random((2, sum(sizes)))
    steps = deal_packs(costs, sizes, group_packs, _random())
    assert [len(step) for step in steps] == sizes
    assert sorted(np.concatenate(steps).tolist()) == list(range(sum(sizes)))


def test_costs_are_those_of_the_formula():
    """144 tokens of a crop stand for the image tokens: within 3 % of what costs.pack_flops says of real pictures."""
    lengths, crops = np.array([2509 + 40, 757 + 30, 90]), np.array([17, 5, 0])
    vision, language = pack_costs(lengths, crops, np.array([0, 2]))
    sizes = ModelSizes()
    for pack, (part, image_tokens) in enumerate(((slice(0, 2), 2509 + 757), (slice(2, 3), 0))):
        told = pack_flops(sizes, lengths[part].tolist(), 0, int(crops[part].sum()), image_tokens)
        assert np.isclose(language[pack], told.layers + told.attention, rtol=1e-12)
        assert np.isclose(vision[pack], told.crops + told.image_tokens, rtol=0.03)


def test_packs_that_run_together_are_alike_in_vision_and_in_language():
    """Two independent costs: sorting by their sum would leave each of them unequal."""
    costs = np.random.default_rng(2).lognormal(sigma=0.5, size=(2, 64 * 64))
    steps = deal_packs(costs, [512] * 8, 64, _random())
    rows = costs[:, np.concatenate(steps)].reshape(2, -1, 64)
    by_sum = costs[:, np.argsort(costs.sum(axis=0))].reshape(2, -1, 64)
    phase, phase_by_sum = (of.max(axis=2).sum() / of.mean(axis=2).sum() for of in (rows, by_sum))
    assert phase - 1 < 0.6 * (phase_by_sum - 1)


def test_groups_are_dealt_at_random_and_not_by_cost():
    costs = np.arange(2 * 4096.0).reshape(2, -1)
    means = [costs[0, step].mean() for step in deal_packs(costs, [256] * 16, 32, _random())]
    assert abs(np.corrcoef(np.arange(16), means)[0, 1]) < 0.5
    assert np.std(means) < 0.5 * np.std(costs[0])


def test_a_small_step_is_not_of_one_kind():
    """16 packs a step, groups of up to 64: cut into four groups all the same."""
    costs = np.arange(2 * 512.0).reshape(2, -1)
    means = [costs[0, step].mean() for step in deal_packs(costs, [16] * 32, 64, _random())]
    assert np.std(means) < 0.6 * np.std(costs[0])


def test_a_last_step_of_another_size_gets_packs_of_all_kinds():
    costs = np.arange(2 * 1100.0).reshape(2, -1)
    means = []
    for seed in range(20):
        steps = deal_packs(costs, [200] * 5 + [100], 50, np.random.default_rng(seed))
        means.append(costs[0, steps[-1]].mean() / costs[0].mean())
    assert abs(np.mean(means) - 1) < 0.25
    assert np.std(means) > 0.1
