"""Statistics add up to what the csv module and Pillow find."""

import io
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.shards.statistics import count_rows, histogram, histogram_rows, picture_rows, price_rows


def test_counts_add_up(made, good_rows):
    rows = count_rows(load_index(made.folder))
    assert rows[-1] == ("both", "all", 19)
    for split, count in made.counts.items():
        assert sum(n for name, category, n in rows if name == split and category != "all") == count
        assert (split, "all", count) in rows
    assert sum(n for _, category, n in rows if category == "Bags") == sum(
        row["category3_code"] == "Bags" for row in good_rows.values()
    )


def test_prices_are_those_of_the_table(made, good_rows):
    index = load_index(made.folder)
    rows = price_rows(index)
    assert [row[0] for row in rows] == ["heldout, EUR", "train, EUR"]
    for name, count, mean, least, _, median, _, most in rows:
        codes = index.column("product_code")[index.numbers(name.split(",")[0])]
        prices = [float(good_rows[code]["full_price"]) for code in codes]
        assert (count, least, most) == (len(prices), min(prices), max(prices))
        assert (mean, median) == pytest.approx((statistics.mean(prices), statistics.median(prices)))


def test_picture_sizes_are_those_of_the_files(made):
    index = load_index(made.folder)
    files = [content for sample in ShardReader(index).samples(range(19)) for content in sample.images]
    shapes = [Image.open(io.BytesIO(content)).size for content in files]
    rows = {name: rest for name, *rest in picture_rows(index)}
    assert rows["pictures of a product"][:2] == [19, 1.0]
    assert rows["file (kB)"][1] == pytest.approx(sum(map(len, files)) / 19 / 1e3)
    # one picture is turned by its EXIF note: 43 × 60 in the file, 60 × 43 for a person
    widths = [60 if shape == (43, 60) else shape[0] for shape in shapes]
    assert rows["width (pixels)"][1] == pytest.approx(statistics.mean(widths))


@given(st.lists(st.integers(0, 2_000_000), max_size=200), st.integers(2, 20))
def test_a_histogram_counts_each_value_once(values, most_bars):
    rows = list(histogram_rows(np.array(values, np.int64), most_bars))
    assert sum(count for _, count, _ in rows) == len(values)
    assert len(rows) <= most_bars
    assert all(count and bar for _, count, bar in rows)
    for name, count, _ in rows:
        first, _, last = name.replace(",", "").partition(" to ")
        assert count == sum(int(first) <= value <= int(last or first) for value in values)


@given(st.lists(st.floats(0.001, 1e7), min_size=1, max_size=200), st.integers(2, 30), st.booleans())
def test_a_histogram_of_any_numbers_has_every_value_in_its_bar(values, most_bars, log_if_wide):
    told = histogram(np.array(values), most_bars, log_if_wide=log_if_wide)
    assert told.counts.sum() == len(values) and len(told.counts) <= most_bars == max(most_bars, len(told.names))
    assert np.all(np.diff(told.edges) > 0) and told.edges[0] <= min(values) and told.edges[-1] >= max(values)
    for first, after, count in zip(told.edges, told.edges[1:], told.counts, strict=False):
        last = after == told.edges[-1] and not told.own
        assert count == sum(first <= value < after or (last and value == after) for value in values)
    few = len(set(values)) <= most_bars
    assert (told.own, told.log) == (few, log_if_wide and not few and max(values) > 50 * min(values))


def test_bars_are_named_as_a_person_would():
    assert histogram(np.array([5, 5, 1200]), 3).names == ["5", "1,200"]
    assert histogram(np.array([2.5, 2.5]), 3).names == ["2.5"]
    assert histogram(np.arange(40), 4).names == ["0 to 9", "10 to 19", "20 to 29", "30 to 39"]
    assert histogram(np.array([0.5, 1.0, 2.5]), 2).names == ["0 to 2", "2 to 4"]
    wide = histogram(np.arange(1, 1_000_001, 7), 3, log_if_wide=True)
    assert wide.names == ["1 to 99", "100 to 9,999", "10,000 to 1,000,000"]
