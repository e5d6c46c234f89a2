"""Rejects as a typed table, also without any, and counted by reason."""

from phi3v_dist.catalog.checks import Reject
from phi3v_dist.catalog.rejects import SCHEMA, count_reasons, rejects_table


def test_rejects_become_rows_and_none_is_typed_too() -> None:
    told = rejects_table([Reject("shop.csv", 7, "a", "title: empty", "")])
    assert told.to_pylist() == [
        {"file": "shop.csv", "row": 7, "product_code": "a", "reason": "title: empty", "value": ""}
    ]
    assert rejects_table([]).schema == SCHEMA


def test_reasons_are_counted_the_most_frequent_first() -> None:
    reasons = ["b", "a", "c", "a", "b", "b"]
    told = rejects_table(Reject("shop.csv", row, "a", reason, "") for row, reason in enumerate(reasons))
    assert list(count_reasons(told).items()) == [("b", 3), ("a", 2), ("c", 1)]
    assert count_reasons(rejects_table([])) == {}
