"""Rules are pure functions with an example each; prices are told apart, never guessed."""

import doctest
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.catalog import rules
from phi3v_dist.catalog.rules import RULES, apply_rules, decimal_comma, decimal_point, strip_html
from phi3v_dist.config.options import PictureRule, PriceRule, TextRule


def test_every_rule_of_the_options_is_there_and_has_an_example() -> None:
    assert {*get_args(TextRule), *get_args(PriceRule), *get_args(PictureRule)} == set(RULES)
    done = doctest.testmod(rules)
    assert (done.failed, done.attempted >= len(RULES) - 1) == (0, True)
    assert all(f"{name}(" in (rules.__doc__ or "") for name in RULES)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        *(
            ("5 < 6 & 7", "5 < 6 & 7"),
            ("a&#39;b &eacute;", "a'b é"),
            ("<b>Bo</b>ld", "Bold"),
            ("one<br/>two", "one two"),
        ),
        *(("<!-- no --><li>a<li>b", "a b"), ("<SCRIPT>if (a<b) {}</SCRIPT>Tie", "Tie"), ("plain", "plain")),
        ('<p class="x > y">Tie</p>', "Tie"),
    ],
)
def test_only_what_a_browser_shows_stays_of_html(html: str, text: str) -> None:
    assert apply_rules(["strip_html", "collapse_spaces"], html) == text


@given(st.text())
def test_html_of_any_kind_is_no_error(text: str) -> None:
    strip_html(text)


@pytest.mark.parametrize("text", ["", "ten", "12,50 or 13", "from 12", "1,29", "1,2345.0", "1.299,00", "12.5.6", "٣"])
def test_a_price_of_another_kind_is_left_alone(text: str) -> None:
    assert decimal_point(text) == text


MONEY = st.sampled_from(
    ["{}", "{} €", "€{}", "$ {}", "EUR {}", "{} kr.", "{}\u00a0zł", "US${}", "CHF {}", "R${}", "₹{}"]
)


@given(st.decimals(0, 10**9, places=2), MONEY, st.booleans())
def test_both_ways_of_writing_a_price_mean_the_same(price: Decimal, money: str, grouped: bool) -> None:
    with_point = f"{price:,.2f}" if grouped else f"{price:.2f}"
    with_comma = with_point.translate(str.maketrans(",.", ".,"))
    assert decimal_point(money.format(with_point)) == decimal_comma(money.format(with_comma)) == f"{price:.2f}"


def test_rules_follow_one_another_and_leave_a_huge_cell_alone() -> None:
    assert apply_rules(["first_of_list", "last_of_path"], "A > B, C > D") == "B"
    assert apply_rules([], " a ") == "a"
    huge = "<b>" * 100_000
    assert apply_rules(["strip_html"], huge) == huge
