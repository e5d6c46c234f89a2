"""Product tables as people export them: byte-order marks, quotes, line ends, wrong columns."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist.catalog.tables import RawRow, read_table
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError

HEADER = "product_code,title,category3_code,full_price,currency_code,imageurl,local_image_path\n"
ROW = "00042,Small Red Tie,TIES,95,EUR,https://x.invalid/1.jpg,images/1.jpg\n"


def table(tmp_path: Path, content: str | bytes) -> CatalogOptions:
    path = tmp_path / "products.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return CatalogOptions(table=str(path))


def message(options: CatalogOptions) -> str:
    with pytest.raises(CatalogError) as caught:
        read_table(options)
    return str(caught.value)


@pytest.mark.parametrize("content", [HEADER + ROW, "\ufeff" + HEADER + ROW, (HEADER + ROW).replace("\n", "\r\n")])
def test_cells_stay_text(tmp_path: Path, content: str) -> None:
    assert read_table(table(tmp_path, content)) == [
        RawRow(2, "00042", "Small Red Tie", "TIES", "95", "EUR", "images/1.jpg")
    ]


def test_rows_are_numbered_by_their_first_line(tmp_path: Path) -> None:
    content = HEADER + ROW + "\n" + ROW.replace("Small Red Tie", '"Small\nRed, ""Tie"""') + ROW
    rows = read_table(table(tmp_path, content))
    assert [row.row for row in rows] == [2, 4, 6]
    assert rows[1].title == 'Small\nRed, "Tie"'


def test_column_names_are_options(tmp_path: Path) -> None:
    options = table(tmp_path, "id,name,kind,cost,money,file\n1,a,b,2,EUR,c.png\n")
    columns = {"product_code": "id", "title": "name", "category": "kind", "price": "cost", "currency": "money"}
    options = CatalogOptions.model_validate({"table": options.table, "columns": columns | {"image_path": "file"}})
    assert read_table(options) == [RawRow(2, "1", "a", "b", "2", "EUR", "c.png")]


def test_short_and_long_rows_are_marked(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, HEADER + "1,a\n" + ROW + ROW.rstrip() + ",more\n"))
    assert [row.fits for row in rows] == [False, True, False]
    assert rows[0].price == ""


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            HEADER.replace("full_price", "price") + ROW,
            ["line 1", "'full_price'", "catalog.columns.price=price", "title"],
        ),
        (HEADER.replace("imageurl", "title") + ROW, ["this column 2 times", "'title'"]),
        ("", ["no such column", "nothing"]),
        (HEADER + ROW.replace("Small Red Tie", '"Small') + ROW, ["isn't CSV", "line"]),
        ((HEADER + ROW).encode().replace(b"Red", b"R\xe9d"), ["isn't UTF-8"]),
        ((HEADER + ROW).encode("utf-16"), ["isn't UTF-8"]),
    ],
)
def test_an_unreadable_table_says_what_is_there(tmp_path: Path, content: str | bytes, parts: list[str]) -> None:
    options = table(tmp_path, content)
    line = message(options)
    assert line.startswith(options.table)
    assert all(part in line for part in parts), line


def test_a_missing_table_names_those_nearby(tmp_path: Path) -> None:
    (tmp_path / "burberry.csv").touch()
    assert "burberry.csv" in message(CatalogOptions(table=str(tmp_path / "products.csv")))
    assert "no folder" in message(CatalogOptions(table=str(tmp_path / "nowhere" / "products.csv")))
    assert "no such product table" in message(CatalogOptions(table=str(tmp_path)))


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(str.strip)


@settings(max_examples=50, deadline=None)
@given(cells=st.lists(st.tuples(*[CELL] * 6), max_size=6))
def test_what_the_csv_module_writes_comes_back(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple]) -> None:
    path = tmp_path_factory.mktemp("table") / "products.csv"
    with open(path, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerow(HEADER.strip().replace("imageurl,", "").split(","))
        csv.writer(handle, quoting=csv.QUOTE_ALL).writerows(cells)
    rows = read_table(CatalogOptions(table=str(path)))
    assert [(row.code, row.title, row.category, row.price, row.currency, row.image_path) for row in rows] == cells
