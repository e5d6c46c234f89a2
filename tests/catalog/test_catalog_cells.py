"""Cells become text as a person would write it, and no text is ever read as a number."""

import json
from datetime import date
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.catalog.cells import cell_pictures, cell_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((" 00042 ", "00042"), ("42.0", "42.0"), ("1e5", "1e5"), ("Tie\u00a0", "Tie"), ("", "")),
        *((None, ""), (float("nan"), ""), (True, "true"), (np.bool_(False), "false")),
        *((42, "42"), (42.0, "42"), (12.5, "12.5"), (-0.25, "-0.25"), (1e21, "1" + "0" * 21), (1e-7, "0.0000001")),
        *((np.float32(12.1), "12.1"), (np.float16(0.1), "0.1"), (float("inf"), "inf"), (np.int64(7), "7")),
        *((Decimal("19.90"), "19.90"), (Decimal("1E+3"), "1000"), (date(2024, 1, 31), "2024-01-31")),
        *((["Bags", None, "Totes"], "Bags, Totes"), ({"amount": 5}, '{"amount": 5}'), ("Größe".encode(), "Größe")),
        *((b"R\xe9d", "R\ufffdd"), ("a\ud800b", "a\ufffdb")),
    ],
)
def test_a_cell_is_written_as_a_person_would(value: object, text: str) -> None:
    assert cell_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_loses_nothing(value: float) -> None:
    assert float(cell_text(value)) == value
    assert "e" not in cell_text(value)


@pytest.mark.parametrize(
    ("value", "separator", "pictures"),
    [
        *((None, None, []), ("", None, []), (" a.jpg ", None, ["a.jpg"]), ("a, b.jpg", None, ["a, b.jpg"])),
        ("a.jpg , b.jpg,", ",", ["a.jpg", "b.jpg"]),
        (r"a\,b.jpg,c.jpg", ",", ["a,b.jpg", "c.jpg"]),
        ("a.jpg|b.jpg", "|", ["a.jpg", "b.jpg"]),
        ('["a.jpg", "b,c.jpg", null]', ",", ["a.jpg", "b,c.jpg"]),
        ("[draft].jpg", None, ["[draft].jpg"]),
        ("[" * 100_000, None, ["[" * 100_000]),
        (["a.jpg", b"bytes", None], None, ["a.jpg", b"bytes"]),
        (b"bytes", None, [b"bytes"]),
        (b"", None, []),
        ({"bytes": b"bytes", "path": "a.jpg"}, None, [b"bytes"]),
        ({"bytes": None, "path": "a.jpg"}, None, ["a.jpg"]),
        ([{"bytes": None, "path": None}, {"bytes": b"x", "path": None}], None, [b"x"]),
    ],
)
def test_a_cell_holds_one_picture_or_many(value: object, separator: str | None, pictures: list) -> None:
    assert cell_pictures(value, separator) == pictures


@given(st.lists(TEXT.map(str.strip).filter(lambda text: text and text[0] not in "[\\")))
def test_any_names_come_back_from_a_json_list(names: list[str]) -> None:
    assert cell_pictures(json.dumps(names)) == names
