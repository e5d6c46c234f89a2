"""CSV, TSV and JSONL as people export them: byte-order marks, quotes, line ends, wrong encodings."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist.catalog.open_table import TableRow
from phi3v_dist.catalog.text_tables import open_csv, open_jsonl
from phi3v_dist.errors import CatalogError

CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def csv_rows(path: Path, content: str | bytes, delimiter: str = ",", columns: str = "ab") -> list[TableRow]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with open_csv(path, delimiter) as table:
        return list(table.rows(list(columns)))


def jsonl_rows(path: Path, content: str | bytes, columns: str = "ab") -> list[TableRow]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with open_jsonl(path) as table:
        return list(table.rows(list(columns)))


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_rows_are_numbered_by_their_first_line(tmp_path: Path, ends: str) -> None:
    content = '\ufeffb, a ,c\n00042,1e5,x\n\n"Small\nRed, ""Tie""",42.0,y\n,,\n'.replace("\n", ends)
    rows = csv_rows(tmp_path / "t.csv", content)
    assert rows == [
        TableRow(2, ["1e5", "00042"]),
        TableRow(4, ["42.0", f'Small{ends}Red, "Tie"']),
        TableRow(6, ["", ""]),
    ]


def test_short_and_long_rows_are_marked(tmp_path: Path) -> None:
    rows = csv_rows(tmp_path / "t.csv", "a,b\n1\n1,2\n1,2,3\n")
    assert [(row.cells, row.fits) for row in rows] == [(["1", ""], False), (["1", "2"], True), (["1", "2"], False)]


def test_a_cell_of_ten_megabytes_is_read_and_an_endless_one_is_refused(tmp_path: Path) -> None:
    (row,) = csv_rows(tmp_path / "t.csv", f"a,b\n{'x' * 10**7},\n")
    assert len(row.cells[0]) == 10**7
    with pytest.raises(CatalogError, match=r"t\.csv line 2: isn't CSV .*field larger than"):
        csv_rows(tmp_path / "t.csv", "a,b\n'x',\"" + "1,2\n" * 5 * 10**6)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('a,b\n1,2\n3,"4\n5,6\n', r"t line 3: isn't CSV \(found 'unexpected end of data, line 4'\)"),
        ('a,b\n1,"2"x\n', "t line 2: isn't CSV"),
        ('a,"b\n', "t line 1: isn't CSV"),
        ("a,b\n1,2\n1,Größe\n".encode("latin-1"), r"t line 3: isn't UTF-8 \(found b'\\xf6"),
        ("a,b\n1,2\n".encode("utf-16"), r"t: is UTF-16, not UTF-8 .*Save the table as UTF-8"),
        (b"PK\x03\x04\x14\0", "t: is a spreadsheet or zip file"),
        (b"\x1f\x8b\x08\0", "t: is compressed"),
        (b"PAR1\x15\x04", r"t: is a Parquet file.*catalog\.format=parquet"),
    ],
)
def test_a_file_that_is_something_else_is_one_line(tmp_path: Path, content: str | bytes, line: str) -> None:
    with pytest.raises(CatalogError, match=line) as caught:
        csv_rows(tmp_path / "t", content)
    assert "\n" not in str(caught.value)


def test_a_nul_is_a_character_of_its_cell(tmp_path: Path) -> None:
    assert csv_rows(tmp_path / "t.csv", "a,b\nRed\0Tie,2\n")[0].cells == ["Red\0Tie", "2"]
    assert jsonl_rows(tmp_path / "t.jsonl", '{"a": "Red\0Tie"}\n')[0].cells == ["Red\0Tie", None]


def test_jsonl_keeps_types_and_counts_lines(tmp_path: Path) -> None:
    content = '\ufeff{"b": "00042", "a": 42}\n\n{"a": ["x", null], "c": 1}\r\n  {"b": 12.5}'
    rows = jsonl_rows(tmp_path / "t.jsonl", content)
    assert rows == [TableRow(1, [42, "00042"]), TableRow(3, [["x", None], None]), TableRow(4, [None, 12.5])]


def test_the_columns_of_jsonl_are_those_of_its_first_rows(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    with open_jsonl(tmp_path / "t.jsonl") as table:
        assert table.names == ["a", "b"]
        assert table.where.endswith("t.jsonl, first 2 rows")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"a": 1}\n[1, 2]\n', r"t line 2: is no JSON object \(found '\[1, 2\]"),
        ('{"a": 1}\n{"a": \n', "t line 2: isn't JSON"),
        ('{"a": ' + "[" * 100_000, "t line 1: isn't JSON"),
        ('{"a": ' + "9" * 10_000 + "}", "t line 1: isn't JSON"),
        (b'{"a": 1}\n{"a": "R\xe9d"}\n', "t line 2: isn't UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "is UTF-16"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, content: str | bytes, line: str) -> None:
    with pytest.raises(CatalogError, match=line) as caught:
        jsonl_rows(tmp_path / "t", content)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(cells=st.lists(st.tuples(CELL, CELL), max_size=6), dialect=st.sampled_from(["excel", "excel-tab", "unix"]))
def test_what_the_csv_module_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], dialect: str
) -> None:
    handle = io.StringIO(newline="")
    csv.writer(handle, dialect, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *cells])
    path = tmp_path_factory.mktemp("text") / "t.csv"
    rows = csv_rows(path, handle.getvalue(), "\t" if dialect == "excel-tab" else ",")
    assert [tuple(row.cells) for row in rows] == cells


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.tuples(CELL, CELL | st.lists(CELL) | st.integers() | st.none()), max_size=6), ascii=st.booleans()
)
def test_what_the_json_module_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple], ascii: bool
) -> None:
    path = tmp_path_factory.mktemp("text") / "t.jsonl"
    lines = [json.dumps({"a": a, "b": b}, ensure_ascii=ascii) for a, b in cells]
    rows = jsonl_rows(path, "\n".join(lines))
    assert [tuple(row.cells) for row in rows] == cells
    assert [row.row for row in rows] == list(range(1, len(cells) + 1))
