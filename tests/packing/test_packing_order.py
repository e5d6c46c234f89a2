"""The order of an epoch: each document once per pass, whatever the weights; windows alike in size and mixture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.errors import DocumentError
from phi3v_dist.packing.order import EpochOrder, Source


def bounds(sizes: list[int], first: int = 0) -> np.ndarray:
    ends = first + np.cumsum(sizes)
    return np.stack([ends - sizes, ends], axis=1)


def make_order(sources: list[Source], left_out: tuple[int, ...] = (), shards: int = 2, most: int = 999, seed: int = 0):
    def numbers(first: int, end: int) -> np.ndarray:
        return np.setdiff1d(np.arange(first, end), left_out)

    counts = [np.array([len(numbers(*shard)) for shard in source.shards.tolist()]) for source in sources]
    return EpochOrder(sources, counts, numbers, window_shards=shards, most_windows=most, seed=seed)


def documents_of(order: EpochOrder, epoch: int) -> list[list[int]]:
    return [order.documents_of(window, epoch, n).tolist() for n, window in enumerate(order.windows(epoch))]


def all_of(order: EpochOrder, epoch: int) -> list[int]:
    return [document for window in documents_of(order, epoch) for document in window]


shard_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@given(shard_sizes, st.integers(1, 5), st.integers(0, 5), st.integers(0, 3))
def test_each_document_once_per_epoch(sizes: list[int], shards: int, most: int, epoch: int):
    order = make_order([Source(bounds(sizes))], shards=shards, most=most)
    assert sorted(all_of(order, epoch)) == list(range(sum(sizes)))


@given(shard_sizes, st.floats(0.2, 3.3))
def test_a_document_comes_again_only_after_all_others_came(sizes: list[int], weight: float):
    total = sum(sizes)
    if weight * total < 1:
        return
    order = make_order([Source(bounds(sizes), weight)])
    counts = np.zeros(total, int)
    for epoch in range(6):
        counts += np.bincount(all_of(order, epoch), minlength=total)
        assert counts.max() - counts.min() <= 1
    assert counts.sum() == round(6 * weight * total)


def test_sources_are_mixed_in_proportion_in_every_window():
    first, second = Source(bounds([10] * 60)), Source(bounds([10] * 20, 600), 2.0)
    windows = documents_of(make_order([first, second], shards=10), 0)
    assert len(windows) == 10
    shares = [np.mean(np.array(window) >= 600) for window in windows]
    assert np.allclose(shares, 400 / 1000, atol=0.11)
    assert {len(window) for window in windows} == {100}


@pytest.mark.parametrize(("shards", "most", "count"), [(4, 99, 10), (4, 7, 7), (1, 99, 40), (50, 99, 1), (1, 0, 1)])
def test_a_window_has_as_many_shards_as_asked_for_and_an_epoch_no_more_windows(shards: int, most: int, count: int):
    windows = make_order([Source(bounds([10] * 40))], shards=shards, most=most).windows(0)
    assert len(windows) == count
    assert max(map(len, windows)) - min(map(len, windows)) <= 1


def test_documents_of_a_window_come_in_chance_order():
    (window,) = documents_of(make_order([Source(bounds([250] * 4))], shards=4), 0)
    for order in (window, [number % 250 for number in window]):  # of shards, and inside of them
        assert abs(np.corrcoef(np.arange(1000), order)[0, 1]) < 3 / np.sqrt(1000)
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 3 / np.sqrt(1000)


def test_documents_that_take_no_part_never_come_and_count_for_nothing():
    order = make_order([Source(bounds([4, 4, 4]), 0.5)], left_out=(0, 1, 2, 3, 11))
    found = sorted(all_of(order, 0) + all_of(order, 1))
    assert found == [4, 5, 6, 7, 8, 9, 10]


def test_shards_and_documents_come_in_another_order_in_each_epoch_and_with_each_seed():
    sources = [Source(bounds([20] * 10))]
    order = make_order(sources)
    assert all_of(order, 0) != all_of(order, 1) != all_of(order, 2)
    assert all_of(order, 0) != all_of(make_order(sources, seed=1), 0)
    assert all_of(order, 0) == all_of(make_order(sources), 0)
    shards = [[document // 20 for document in all_of(order, epoch)] for epoch in range(2)]
    assert list(dict.fromkeys(shards[0])) != list(dict.fromkeys(shards[1]))


def test_a_source_too_small_for_its_weight_is_named():
    with pytest.raises(DocumentError, match=r"few: no document is left to pack: 3 fit into a pack, 0\.3 epochs"):
        make_order([Source(bounds([3]), 0.3, "few")])
