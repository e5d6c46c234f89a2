"""Scores against numbers worked out by hand and scikit-learn; baselines against a table small enough to see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from phi3v_dist.evaluation.answers import ParsedAnswer
from phi3v_dist.evaluation.scores import baselines, score, word_f1

TRUTHS = [
    ParsedAnswer("Red Silk Scarf", "scarf", 100.0),
    ParsedAnswer("Blue Belt", "belt", 50.0),
    ParsedAnswer("Green Bag", "bag", 200.0),
    ParsedAnswer("Black Bag", "bag", 400.0),
]
ANSWERS = [
    ParsedAnswer("Red Silk Scarf", "scarf", 110.0),  # right, 0.1 off
    ParsedAnswer("Blue Wool Belt", "scarf", 50.0),  # F1 2·2/(2+3) = 0.8, wrong category, price exact
    None,
    ParsedAnswer("black bag", "bag", 300.0),  # F1 1 but not exact, 0.25 off
]


def test_scores_equal_the_numbers_worked_out_by_hand():
    assert score(TRUTHS, ANSWERS) == pytest.approx(
        {
            "count": 4,
            "category_accuracy": 0.5,
            "title_exact": 0.25,
            "title_word_f1": (1 + 0.8 + 0 + 1) / 4,
            "price_median_relative_error": (0.1 + 0.25) / 2,
            "price_mean_relative_error": (0.1 + 0 + 1 + 0.25) / 4,
            "parsed_share": 0.75,
        }
    )


@pytest.mark.parametrize(
    ("truth", "answer", "f1"),
    [("a b", "b A", 1), ("a a b", "a b b", 2 / 3), ("a b", "c d", 0), ("a", "a a a", 0.5)],
)
def test_a_word_counts_as_often_as_it_stands(truth, answer, f1):
    assert word_f1(truth, answer) == pytest.approx(f1)


def test_no_answer_at_all_is_wrong_everywhere():
    scores = score(TRUTHS, [None] * 4)
    assert scores.pop("count") == 4
    assert scores.pop("price_median_relative_error") == scores.pop("price_mean_relative_error") == 1.0
    assert set(scores.values()) == {0.0}


CATEGORIES = st.sampled_from("abc")


@given(st.lists(st.tuples(CATEGORIES, CATEGORIES | st.none(), st.floats(1, 1e6)), min_size=1, max_size=30))
def test_accuracy_and_price_errors_equal_sklearn_and_numpy(rows):
    truths = [ParsedAnswer("t", category, 10.0) for category, _, _ in rows]
    answers = [category and ParsedAnswer("t", category, price) for _, category, price in rows]
    scores = score(truths, answers)
    accuracy = accuracy_score([category for category, _, _ in rows], [str(category) for _, category, _ in rows])
    errors = [abs(price - 10) / 10 if category else 1.0 for _, category, price in rows]
    assert scores["category_accuracy"] == pytest.approx(accuracy)
    assert scores["price_median_relative_error"] == pytest.approx(np.median(errors))
    assert scores["price_mean_relative_error"] == pytest.approx(np.mean(errors))


TRAIN = [
    *[ParsedAnswer("Green Bag", "bag", price) for price in (100.0, 200.0, 400.0)],
    *[ParsedAnswer("Blue Belt", "belt", price) for price in (40.0, 60.0)],
]


def test_the_global_baseline_always_says_the_same():
    # most frequent: Green Bag, bag; median of 40, 60, 100, 200, 400 is 100
    found = baselines(TRAIN, TRUTHS)["most_frequent_category"]
    assert found == score(TRUTHS, [ParsedAnswer("Green Bag", "bag", 100.0)] * 4)
    assert found["category_accuracy"] == 0.5
    assert found["price_median_relative_error"] == pytest.approx((0.5 + 0.75) / 2)  # of 0, 1, 0.5, 0.75


def test_the_category_baseline_knows_the_category_and_its_median():
    found = baselines(TRAIN, TRUTHS[1:])["category_median"]
    assert found["category_accuracy"] == 1.0
    assert found["price_median_relative_error"] == 0.0  # belt 50 of 50, bag 200 of 200, bag 200 of 400
    assert found["price_mean_relative_error"] == pytest.approx(0.5 / 3)


def test_baselines_do_not_depend_on_the_order_of_the_samples():
    assert baselines(TRAIN[::-1], TRUTHS) == baselines(TRAIN, TRUTHS)
