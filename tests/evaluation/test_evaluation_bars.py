"""Each bar of the demo fails alone, with its value and bar."""

import math

import pytest

from phi3v_dist.evaluation.bars import check_bars

ERROR = "price_median_relative_error"


def _evaluation(**changes):
    passed = {"count": 300, "category_accuracy": 0.9, "title_word_f1": 0.75, "parsed_share": 0.99, ERROR: 0.18}
    baseline = {"most_frequent_category": {ERROR: 0.6001}, "category_median": {ERROR: 0.2}}
    return {**passed, **changes, "baseline": baseline}


def test_values_on_the_bars_pass():
    assert check_bars(_evaluation()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 299), ("category_accuracy", 0.8999), ("title_word_f1", 0.749), ("parsed_share", 0.98)],
)
def test_a_missed_bar_is_one_sentence_with_value_and_bar(name, value):
    (sentence,) = check_bars(_evaluation(**{name: value}))
    assert sentence.startswith(f"{name} is {value}, the bar is at least ")


def test_a_price_error_above_each_bar_fails_each():
    assert [sentence.split("(")[1] for sentence in check_bars(_evaluation(**{ERROR: 0.2}))] == [
        "0.3 of the global median's).",
        "each category's median).",
    ]
    assert len(check_bars(_evaluation(**{ERROR: 0.19}))) == 1


def test_a_value_that_is_not_a_number_never_passes():
    assert len(check_bars(_evaluation(**{ERROR: math.nan}))) == 2
