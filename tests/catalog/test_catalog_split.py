"""The split is a property of the code alone: a golden value from sha256sum, shares by counting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.catalog.split import is_far_off, split_of


def test_the_split_is_where_the_hash_falls() -> None:
    first = 0xE11AE9015F43 / 16**12  # printf 80000000 | sha256sum, the first 12 digits
    assert split_of("80000000", first + 1e-9) == "heldout"
    assert split_of("80000000", first - 1e-9) == "train"


@pytest.mark.parametrize("share", [0.05, 0.15, 0.5])
def test_the_share_is_met(share: float) -> None:
    heldout = sum(split_of(str(code), share) == "heldout" for code in range(20_000)) / 20_000
    assert heldout == pytest.approx(share, abs=0.01)


@given(code=st.text(), small=st.floats(0, 1), large=st.floats(0, 1))
def test_a_larger_share_only_moves_products_out_of_training(code: str, small: float, large: float) -> None:
    small, large = sorted((small, large))
    assert not (split_of(code, small) == "heldout" and split_of(code, large) == "train")
    assert (split_of(code, 0), split_of(code, 1)) == ("train", "heldout")


@pytest.mark.parametrize(
    ("num_heldout", "num_products", "share", "far"),
    [
        (100, 1000, 0.1, False),
        (128, 1000, 0.1, False),  # 2.95 standard deviations
        (130, 1000, 0.1, True),
        (70, 1000, 0.1, True),
        (101_000, 1_000_000, 0.1, False),  # 3.3, but a hundredth of the share matters to nobody
        (121_000, 1_000_000, 0.1, True),
        (2, 5, 0.1, False),
        (5, 5, 0.1, True),
        (0, 20, 0.1, False),  # one in eight
        (0, 0, 0.1, False),
        (0, 50, 0.0, False),
        (50, 50, 1.0, False),
    ],
)
def test_a_share_is_far_off_when_it_is_more_than_chance_and_matters(num_heldout, num_products, share, far) -> None:
    assert is_far_off(num_heldout, num_products, share) == far


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_products_without_groups_are_far_off_less_than_once_in_a_hundred(share: float) -> None:
    far = [
        is_far_off(sum(split_of(f"{run}/{code}", share) == "heldout" for code in range(300)), 300, share)
        for run in range(300)
    ]
    assert sum(far) <= 3
