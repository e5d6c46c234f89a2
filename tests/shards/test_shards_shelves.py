"""Shelves hold every product once, in an order that no picture decides, and parts share them out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.catalog.checks import Product
from phi3v_dist.catalog.split import split_of
from phi3v_dist.errors import ConfigError
from phi3v_dist.shards.shelves import Part, digest_of, fill_shelves

CODES = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=60)


def products(codes: list[str]) -> list[Product]:
    return [Product(row, code, "Bag", "BAGS", 1.0, "EUR", Path("none.jpg")) for row, code in enumerate(codes, 2)]


@given(CODES, st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]))
def test_every_product_stands_on_one_shelf_of_its_split_by_the_hash_of_its_code(codes, size, share):
    shelves = fill_shelves(products(codes), share, size)
    assert sorted(product.code for shelf in shelves for product in shelf.products) == sorted(codes)
    for split in ("train", "heldout"):
        of_split = [shelf for shelf in shelves if shelf.split == split]
        found = [product.code for shelf in of_split for product in shelf.products]
        assert found == sorted((code for code in codes if split_of(code, share) == split), key=digest_of)
        assert [len(shelf.products) for shelf in of_split[:-1]] == [size] * len(of_split[:-1])
        assert [shelf.tar for shelf in of_split] == [f"{split}/{split}-{n:06d}.tar" for n in range(len(of_split))]
    assert [shelf.split for shelf in shelves] == sorted((shelf.split for shelf in shelves), reverse=True)


@given(CODES, st.integers(1, 9))
def test_parts_take_each_shelf_once_and_share_alike(codes, count):
    shelves = fill_shelves(products(codes), 0.3, 2)
    parts = [Part(number, count).of(shelves) for number in range(1, count + 1)]
    assert sorted(shelf.tar for part in parts for shelf in part) == sorted(shelf.tar for shelf in shelves)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_no_part_of_a_whole_is_refused(text):
    with pytest.raises(ConfigError, match=r"--part: no part of a whole.*--part 2/8"):
        Part.parse(text)


def test_a_part_is_written_as_slurm_counts():
    assert Part.parse("8/8") == Part(8, 8)
