"""The bound: never below what can be reached, and sharp where the best is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist.packing.bound import fill_bound
from phi3v_dist.packing.subset import pack_documents


def _fill(lengths: np.ndarray, pack_tokens: int) -> float:
    _, ends = pack_documents(lengths, pack_tokens, 200, 100)
    return lengths.sum() / (len(ends) * pack_tokens)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.integers(90, 200), st.sampled_from([0, 10]))
@settings(max_examples=40)
def test_no_packing_is_fuller_than_the_bound(lengths: list[int], pack_tokens: int, most_seconds: float):
    told = np.array(lengths)
    assert _fill(told, pack_tokens) <= fill_bound(told, pack_tokens, most_seconds=most_seconds) + 1e-9


@pytest.mark.parametrize(
    ("lengths", "pack_tokens", "best"),
    [
        ([60] * 100, 100, 0.6),  # no two go together
        ([60] * 100 + [40] * 50, 100, (6000 + 2000) / 10_000),  # half of them get a partner
        ([34] * 100, 100, 0.68),
        ([50] * 10, 100, 1.0),
    ],
)
def test_the_bound_is_the_best_where_that_is_known(lengths: list[int], pack_tokens: int, best: float):
    assert fill_bound(np.array(lengths), pack_tokens) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize(("pictures", "published"), [(16, 0.9444), (4, 0.9903)])
def test_the_bound_of_the_catalogue_mix_is_the_one_that_was_published(pictures: int, published: float):
    """facts/data.md, section 2: 94.44 and 99.03 % at 8,192 tokens."""
    random = np.random.default_rng(0)
    lengths = {16: ([2509, 1933, 1921, 2353, 2377], [0.705, 0.203, 0.075, 0.011, 0.006]), 4: ([757], [1.0])}
    text = np.clip(np.round(np.exp(random.normal(np.log(50), 0.4, 60_000))), 20, 120)
    told = (random.choice(lengths[pictures][0], 60_000, p=lengths[pictures][1]) + text).astype(np.int64)
    assert fill_bound(told, 8192, most_seconds=60) == pytest.approx(published, abs=0.002)


def test_the_bound_comes_nearer_as_units_are_halved():
    often, once = np.repeat(np.arange(2731, 2736), 1000), np.arange(2736, 3136)
    lengths = np.concatenate([often, once])  # above a third: no three go together, which eights can't tell
    best = lengths.mean() * 2 / 8192
    assert fill_bound(lengths, 8192, most_seconds=0) > best + 0.1
    assert fill_bound(lengths, 8192, most_seconds=30) == pytest.approx(best, rel=1e-3)


def test_many_lengths_are_rounded_down_and_the_bound_stays_true():
    lengths = np.random.default_rng(1).integers(1, 8000, 3000)
    assert _fill(lengths, 8192) <= fill_bound(lengths, 8192, most_seconds=3) <= 1
