"""No picture on both sides: against groups found by following pictures one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.catalog.leaks import (
    HELDOUT,
    NO_SIDE,
    TRAIN,
    UNKNOWN,
    groups_of_products,
    sides_of,
)
from phi3v_dist.catalog.split import code_digest, split_of


def digests(number: int) -> np.ndarray:
    return np.stack([code_digest(f"code-{product}") for product in range(number)])


def clusters(owned: list[list[int]]) -> np.ndarray:
    """For each picture the place of the first that is the same."""
    shown = np.array([picture for pictures in owned for picture in pictures], np.int64)
    _, first, which = np.unique(shown, return_index=True, return_inverse=True)
    return first[which]


def sides(owned: list[list[int]], known: list[int], share: float = 0.3) -> list[int]:
    """``owned``: the pictures of each product."""
    owners = np.array([product for product, pictures in enumerate(owned) for _ in pictures], np.int64)
    return sides_of(digests(len(owned)), owners, clusters(owned), np.array(known, np.int8), share).tolist()


def reached(owned: list[list[int]], start: int) -> set[int]:
    """Products that are connected to one by pictures, followed one by one."""
    found, todo = {start}, [start]
    while todo:
        pictures = set(owned[todo.pop()])
        for other, others in enumerate(owned):
            if other not in found and pictures & set(others):
                found.add(other)
                todo.append(other)
    return found


OWNED = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=3), min_size=1, max_size=20)


@given(owned=OWNED)
def test_products_that_share_pictures_are_one_group(owned) -> None:
    owners = np.array([product for product, pictures in enumerate(owned) for _ in pictures])
    groups = groups_of_products(len(owned), owners, clusters(owned))
    for product in range(len(owned)):
        assert set(np.flatnonzero(groups == groups[product]).tolist()) == reached(owned, product)


@given(owned=OWNED, known=st.lists(st.sampled_from([UNKNOWN, UNKNOWN, TRAIN, HELDOUT]), min_size=20, max_size=20))
def test_no_new_product_has_a_picture_of_the_other_side(owned, known) -> None:
    known = known[: len(owned)]
    found = sides(owned, known)
    for product, side in enumerate(found):
        if known[product] != UNKNOWN:
            assert side == known[product]
            continue
        others = {found[other] for other in range(len(owned)) if set(owned[other]) & set(owned[product])}
        assert side == NO_SIDE or others <= {side, NO_SIDE}


@given(owned=OWNED, share=st.sampled_from([0.0, 0.3, 1.0]))
def test_a_first_delivery_loses_no_product(owned, share) -> None:
    found = sides(owned, [UNKNOWN] * len(owned), share)
    assert NO_SIDE not in found
    if share in (0.0, 1.0):
        assert set(found) == {HELDOUT if share else TRAIN}


def test_a_product_alone_is_where_its_code_puts_it() -> None:
    found = sides([[product] for product in range(200)], [UNKNOWN] * 200)
    wanted = [split_of(f"code-{product}", 0.3) == "heldout" for product in range(200)]
    assert [side == HELDOUT for side in found] == wanted


def test_groups_are_held_out_as_often_as_products_alone() -> None:
    owned = [[product // 5] for product in range(10_000)]
    assert abs(np.mean(np.array(sides(owned, [UNKNOWN] * 10_000)) == HELDOUT) - 0.3) < 0.03


def test_a_new_product_follows_the_group_that_it_joins() -> None:
    assert sides([[0], [0, 1], [1], [2]], [HELDOUT, UNKNOWN, UNKNOWN, TRAIN]) == [HELDOUT, HELDOUT, HELDOUT, TRAIN]


def test_a_later_product_that_links_both_sides_goes_to_neither_and_its_neighbours_stay() -> None:
    owned = [[0], [1], [0, 1], [0, 5], [1, 6]]
    assert sides(owned, [TRAIN, HELDOUT, UNKNOWN, UNKNOWN, UNKNOWN]) == [TRAIN, HELDOUT, NO_SIDE, TRAIN, HELDOUT]


def test_new_products_that_join_the_sides_only_together_go_to_neither() -> None:
    assert sides([[0], [1], [0, 2], [2, 1]], [TRAIN, HELDOUT, UNKNOWN, UNKNOWN])[2:] == [NO_SIDE, NO_SIDE]
