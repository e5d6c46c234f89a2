"""Parts of joined things, against scipy's connected components."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from phi3v_dist.catalog.connected import Parts


def by_scipy(count: int, pairs: np.ndarray) -> list[int]:
    edges = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels = connected_components(edges, directed=False)[1]
    return np.unique(labels, return_index=True)[1][labels].tolist()


@given(st.lists(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=8), max_size=6))
def test_joined_things_have_the_lowest_number_of_their_part(calls) -> None:
    parts = Parts(20)
    for call in calls:
        pairs = np.array(call, np.int64).reshape(-1, 2)
        parts.join(pairs[:, 0], pairs[:, 1])
    wanted = by_scipy(20, np.array([pair for call in calls for pair in call], np.int64).reshape(-1, 2))
    assert parts.of(np.arange(20)).tolist() == wanted
    assert parts.settled().tolist() == wanted


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("at_once", [100_000, 997])
def test_a_long_chain_is_one_part(turn, at_once) -> None:
    links = np.arange(99_999)[::turn]
    parts = Parts(100_000)
    for start in range(0, len(links), at_once):
        parts.join(links[start : start + at_once], links[start : start + at_once] + 1)
    assert not parts.settled().any()


def test_things_that_nobody_joined_stay_alone() -> None:
    assert Parts(3).settled().tolist() == [0, 1, 2]
    assert Parts(0).settled().tolist() == []
