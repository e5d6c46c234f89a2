"""Arrays in files behave as arrays in memory do; sorting in place, against numpy's own stable sorting."""

import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist import mapped_arrays
from phi3v_dist.mapped_arrays import Sorting, arrays_in, blocks, chosen, new_file, numbers, open_file


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(mapped_arrays, "BLOCK", 7)


def test_an_array_in_a_file_is_zeros_and_leaves_no_name(tmp_path) -> None:
    array = arrays_in(tmp_path)((3, 2), "i4")
    assert array.tolist() == [[0, 0]] * 3
    array[1] = 5
    assert array.sum() == 10
    assert not os.listdir(tmp_path)
    assert arrays_in(tmp_path)((0, 768), "u1").shape == (0, 768)


@pytest.mark.parametrize("shape", [5, (4, 3), 0, (0, 768)])
def test_a_file_comes_back_as_it_was_written(tmp_path, shape) -> None:
    array = new_file(tmp_path / "name without a suffix", shape, "i8")
    array[:] = np.arange(array.size).reshape(array.shape)
    array.flush()
    back = open_file(tmp_path / "name without a suffix")
    assert np.array_equal(back, array) and back.dtype == np.int64 and type(back) is np.ndarray
    assert np.array_equal(np.load(tmp_path / "name without a suffix"), array)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path) -> None:
    too_large = 1 << 58
    with pytest.raises(OSError):
        arrays_in(tmp_path)(too_large, "u1")
    assert not os.listdir(tmp_path)


@given(count=st.integers(0, 50))
def test_blocks_cover_all_rows_once(count) -> None:
    rows = [row for part in blocks(count) for row in range(part.start, part.stop)]
    assert rows == list(range(count)) == numbers(np.zeros, count).tolist()


@given(marks=st.lists(st.booleans(), max_size=50))
def test_chosen_rows_are_those_that_are_marked(marks) -> None:
    marked = np.array(marks, bool)
    assert chosen(np.zeros, len(marks), marked.__getitem__).tolist() == np.flatnonzero(marked).tolist()


@given(keys=st.lists(st.sampled_from([0, 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1), max_size=60))
def test_rows_stand_by_the_highest_bits_of_their_keys_then_by_number(keys) -> None:
    values = np.array(keys, np.uint64)
    sorting = Sorting(np.zeros, len(values), values.__getitem__)
    highest = values >> np.uint64(max(1, (len(values) - 1).bit_length()))
    assert sorting[slice(0, len(values))].tolist() == np.argsort(highest, kind="stable").tolist()


@settings(max_examples=200)
@given(keys=st.lists(st.integers(0, 5).map(lambda key: key << 60), max_size=60))
def test_whole_blocks_hold_every_row_once_and_never_part_equal_keys(keys) -> None:
    values = np.array(keys, np.uint64)
    found = list(Sorting(np.zeros, len(values), values.__getitem__).whole_blocks())
    assert sorted(row for block in found for row in block) == list(range(len(values)))
    assert all(values[one[-1]] < values[next_one[0]] for one, next_one in pairwise(found))
