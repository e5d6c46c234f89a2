"""Shelves hold every product once, in the order of their codes' hashes, and no picture stands in both splits."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.catalog.likeness import FINGERPRINT_BYTES
from phi3v_dist.catalog.split import code_digest, split_of
from phi3v_dist.errors import ConfigError
from phi3v_dist.shards.placing import Earlier, Part, cut_into_shelves, place

CODES = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=60)


def digests(codes: list[str]) -> np.ndarray:
    return np.array([code_digest(code) for code in codes], np.uint64).reshape(-1, 2)


def pictures(number: int) -> np.ndarray:
    """Fingerprints of which no two look alike."""
    return np.random.default_rng(0).integers(0, 256, (number, FINGERPRINT_BYTES), np.uint8)


@given(CODES, st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]))
def test_every_product_stands_on_one_shelf_of_its_split_by_the_hash_of_its_code(codes, size, share):
    order = place(digests(codes), np.arange(len(codes)), pictures(len(codes)), Earlier(), share).order
    shelves = cut_into_shelves(order, size, {"train": 0, "heldout": 3})
    for split, first in (("train", 0), ("heldout", 3)):
        found = [codes[number] for number in order[split]]
        wanted = [code for code in codes if split_of(code, share) == split]
        assert found == sorted(wanted, key=lambda code: hashlib.sha256(code.encode()).hexdigest())
        of_split = [shelf for shelf in shelves if shelf.split == split]
        assert [number for shelf in of_split for number in range(shelf.start, shelf.stop)] == list(range(len(found)))
        assert all(shelf.stop - shelf.start == size for shelf in of_split[:-1])
        assert [shelf.tar for shelf in of_split] == [
            f"{split}/{split}-{first + n:06d}.tar" for n in range(len(of_split))
        ]
    assert [shelf.split for shelf in shelves] == sorted((shelf.split for shelf in shelves), reverse=True)


def test_a_product_without_a_good_picture_is_nowhere():
    placement = place(digests(["a", "b", "c"]), np.array([0, 2]), pictures(2), Earlier(), 0.0)
    assert sorted(placement.order["train"]) == [0, 2]


def test_products_that_share_a_picture_are_in_one_split_with_those_of_earlier_deliveries():
    shown = pictures(4)
    earlier = Earlier(["x", "y"], np.array([0, 1], np.int8), np.array([0, 1]), [shown[:2]])
    owners = np.array([0, 1, 1, 2, 2, 3])  # a joins x, b joins y over a picture of its own, c joins both
    new = np.stack([shown[0], shown[1], shown[2], shown[0], shown[1], shown[2]])
    placement = place(digests(["a", "b", "c", "d"]), owners, np.concatenate([shown[:2], new]), earlier, 0.0)
    assert placement.order["train"].tolist() == [0]
    assert sorted(placement.order["heldout"]) == [1, 3]
    assert placement.linked.tolist() == [2]
    assert placement.largest_group.tolist() == [0, 1, 2, 3]  # c ties all


def test_the_largest_group_is_of_products_that_share_pictures():
    shown = pictures(5)[[0, 1, 1, 2, 2, 3, 4]]
    placement = place(digests(list("abcdef")), np.array([0, 1, 2, 2, 3, 4, 5]), shown, Earlier(), 0.1)
    assert placement.largest_group.tolist() == [1, 2, 3]
    nothing = place(digests([]), np.empty(0, np.int64), pictures(0), Earlier(), 0.1)
    assert nothing.largest_group.tolist() == []


def test_pictures_that_were_not_checked_tie_no_products():
    placement = place(digests(list("abc")), np.array([0, 1, 2]), None, Earlier(), 0.0)
    assert sorted(placement.order["train"]) == [0, 1, 2] and len(placement.largest_group) == 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_no_part_of_a_whole_is_refused(text):
    with pytest.raises(ConfigError, match=r"--part: no part of a whole.*--part 2/8"):
        Part.parse(text)


def test_a_part_is_written_as_slurm_counts():
    assert Part.parse("8/8") == Part(8, 8)
