"""Answers as text become title, category and price, or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.documents.prompt import answer_text
from phi3v_dist.evaluation.answers import ParsedAnswer, parse_answer

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=12)


@given(title=WORDS, category=WORDS, price=st.decimals(1, 10**9, places=2))
def test_what_training_teaches_parses_back_to_the_product(title, category, price):
    assert parse_answer(answer_text(title, category, float(price))) == ParsedAnswer(title, category, float(price))


def test_a_title_may_hold_commas_and_the_words_that_divide():
    text = "Product: Scarf, red, Category: odd, Full Price: 3, Category: scarf, Full Price: 120.50"
    assert parse_answer(text) == ParsedAnswer("Scarf, red, Category: odd, Full Price: 3", "scarf", 120.5)


def test_white_space_around_an_answer_is_ignored():
    assert parse_answer(" Product: A, Category: b, Full Price: 1\n") == ParsedAnswer("A", "b", 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A scarf for 12",
        "Product: A, Category: b, Full Price: ",
        "Product: A, Category: b, Full Price: cheap",
        "Product: A, Category: b, Full Price: -3",
        "Product: A, Category: b, Full Price: nan",
        "Product: A, Category: b, Full Price: 1e9",
        "Product: A, Category: b, Full Price: 12 and more",
        "Product: A, Category: b, Full Price: " + "9" * 400,
        "Product: A, Full Price: 12, Category: b",
        "Product: , Category: b, Full Price: 12",
        "I see Product: A, Category: b, Full Price: 12",
    ],
)
def test_anything_else_does_not_parse(text):
    assert parse_answer(text) is None
