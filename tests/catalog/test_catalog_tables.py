"""The same products come out of every kind of table; columns, joined rows and rules as the options say."""

import csv
import hashlib
import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist.catalog.tables import RawRow, read_table, table_sha256
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError

HEADER = "product_code,title,category3_code,full_price,currency_code,imageurl,local_image_path\n"
ROW = "00042,Small Red Tie,TIES,95,EUR,https://x.invalid/1.jpg,images/1.jpg\n"
NAMES = ["product_code", "title", "category3_code", "full_price", "currency_code", "local_image_path"]
KINDS = ["csv", "tsv", "jsonl", "parquet", "arrow", "saved", "folder"]
SHORT = {"product_code": "c", "title": "t", "category": "k", "price": "p", "currency": "m", "image_path": "i"}


def table(tmp_path: Path, content: str | bytes, name: str = "products.csv", **options: Any) -> CatalogOptions:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return CatalogOptions.model_validate({"table": str(path)} | options)


def message(options: CatalogOptions) -> str:
    with pytest.raises(CatalogError) as caught:
        next(read_table(options), None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(folder: Path, kind: str, rows: list[dict[str, str]]) -> str:
    """Write rows of text as another program would; the table's name."""
    path = folder / f"products.{kind}"
    columns = {name: [row[name] for row in rows] for name in NAMES}
    typed = pa.table(columns, schema=pa.schema([(name, pa.string()) for name in NAMES]))
    match kind:
        case "csv" | "tsv":
            with open(path, "w", newline="", encoding="utf-8") as handle:
                dialect = {"csv": "excel", "tsv": "excel-tab"}[kind]
                writer = csv.DictWriter(handle, NAMES, dialect=dialect, quoting=csv.QUOTE_ALL)
                writer.writeheader()
                writer.writerows(rows)
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "parquet":
            pq.write_table(typed, path)
        case "arrow":
            with pa.ipc.new_file(str(path), typed.schema) as out:
                out.write_table(typed)
        case "saved":
            datasets.Dataset(typed).save_to_disk(str(path))
        case "folder":
            path.mkdir()
            pq.write_table(typed, path / "train.parquet")
    return str(path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("cache")
def test_the_same_products_come_out_of_every_kind_of_table(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [
        dict(zip(NAMES, [f"{number:05d}", 'Größe "3", rot', "TIES", "95.50", "EUR", "a.jpg"], strict=True))
        | {draw.choice(NAMES): draw.choice(["", "  x\ny ", "1e5", "\u2028", "null", "NaN"])}
        for number in range(300)
    ]
    found = {}
    for kind in KINDS:
        found[kind] = list(read_table(CatalogOptions(table=write(tmp_path, kind, rows))))
        assert len({row.row for row in found[kind]}) == 300
    expected = [filled(row) for row in rows]
    for kind in KINDS:
        assert [[*texts_of(row), *row.pictures] for row in found[kind]] == expected
    assert [found["parquet"][0].row, found["csv"][0].row] == [1, 2]


def filled(row: dict[str, str]) -> list[str]:
    *texts, picture = (row[name].strip() for name in NAMES)
    return [*texts, *filter(None, [picture])]


def texts_of(row: RawRow) -> tuple[str, ...]:
    return row.code, row.title, row.category, row.price, row.currency


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(str.strip)


@settings(max_examples=40, deadline=None)
@given(cells=st.lists(st.tuples(*[CELL] * 5), max_size=6), kind=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]))
def test_any_texts_come_back(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple], kind: str) -> None:
    rows = [dict(zip(NAMES, [*texts, "a.jpg"], strict=True)) for texts in cells]
    name = write(tmp_path_factory.mktemp("table"), kind, rows)
    if kind == "jsonl" and not cells:
        return  # a file without a line has no columns
    found = list(read_table(CatalogOptions(table=name)))
    assert [texts_of(row) for row in found] == cells


def test_typed_products_are_those_of_text(tmp_path: Path) -> None:
    """A JSON and a Parquet file with numbers, lists and missing values, beside the CSV file of the same products."""
    values = [
        {"c": 42, "t": "Tie", "k": "TIES", "p": 95.5, "m": "EUR", "i": ["a.jpg", "b.jpg"]},
        {"c": 7, "t": None, "k": "TIES", "p": 95.0, "m": "EUR", "i": []},
    ]
    content = 'c,t,k,p,m,i\n42,Tie,TIES,95.5,EUR,"[""a.jpg"",""b.jpg""]"\n7,,TIES,95,EUR,\n'
    text = table(tmp_path, content, columns=SHORT)
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    expected = [
        RawRow(1, "42", "Tie", "TIES", "95.5", "EUR", ("a.jpg", "b.jpg")),
        RawRow(2, "7", "", "TIES", "95", "EUR", ()),
    ]
    for name in ("t.parquet", "t.jsonl"):
        assert list(read_table(text.model_copy(update={"table": str(tmp_path / name)}))) == expected
    assert [vars(row) | {"row": 0} for row in read_table(text)] == [vars(row) | {"row": 0} for row in expected]


def test_a_table_is_read_row_by_row(tmp_path: Path) -> None:
    """A fault of row 3 isn't met before it is reached."""
    rows = read_table(table(tmp_path, (HEADER + ROW * 2).encode() + b"R\xe9d,1,2\n"))
    assert [row.row for row in islice(rows, 2)] == [2, 3]
    with pytest.raises(CatalogError, match="line 4: isn't UTF-8"):
        next(rows)


def test_column_names_are_options_and_a_list_of_them_takes_the_first_that_is_filled(tmp_path: Path) -> None:
    columns = SHORT | {"product_code": ["parent", "c"], "price": ["sale", "p"], "image_path": ["i", "more"]}
    columns |= {"further": {"brand": "maker", "kind": "k"}}
    content = "c,parent,t,k,p,sale,m,i,more,maker\n1,,a,b,2,,EUR,x.png,y.png,Acme\n2,1,a,b,2,1,EUR,x.png,x.png,\n"
    assert list(read_table(table(tmp_path, content, columns=columns))) == [
        RawRow(2, "1", "a", "b", "2", "EUR", ("x.png", "y.png"), {"brand": "Acme", "kind": "b"}),
        RawRow(3, "1", "a", "b", "1", "EUR", ("x.png",), {"brand": "", "kind": "b"}),
    ]


def test_without_a_currency_column_the_option_is_the_currency(tmp_path: Path) -> None:
    options = table(tmp_path, "c,t,k,p,i\n1,a,b,2,x.png\n", columns=SHORT | {"currency": None}, currency="EUR")
    assert [row.currency for row in read_table(options)] == ["EUR"]


def test_rules_clean_the_cells_of_their_column_alone(tmp_path: Path) -> None:
    rules = {
        "title": ["strip_html"],
        "category": ["last_of_path"],
        "price": ["decimal_comma"],
        "further": ["strip_html"],
    }
    columns = SHORT | {"further": {"text": "i"}}
    content = 'c,t,k,p,m,i\n<b>1</b>,<b>Tie</b>,A/B/C,"1.299,00 €",EUR,<b>x</b>\n'
    (row,) = read_table(table(tmp_path, content, columns=columns, rules=rules | {"image_path": ["magento_path"]}))
    assert row == RawRow(2, "<b>1</b>", "Tie", "C", "1299.00", "EUR", ("<b>x</b>",), {"text": "x"})


def test_several_pictures_of_a_cell_keep_their_order_and_lose_doubles(tmp_path: Path) -> None:
    options = table(tmp_path, "c,t,k,p,m,i\n1,a,b,2,EUR,y.png|x.png| y.png |\n", columns=SHORT, picture_separator="|")
    assert [row.pictures for row in read_table(options)] == [("y.png", "x.png")]


def test_rows_of_one_code_that_follow_each_other_are_joined(tmp_path: Path) -> None:
    content = (
        "c,t,k,p,m,i\n1,,b,2,EUR,x.png\n1,Tie,c,3,EUR,y.png\n1,,,,,x.png\n2,Bag,b,5,EUR,z.png\n1,Hat,b,6,EUR,w.png\n"
        ",a,b,2,EUR,x.png\n,c,d,2,EUR,x.png\n"
    )
    rows = list(read_table(table(tmp_path, content, columns=SHORT, join_rows=True)))
    assert rows[:3] == [
        RawRow(2, "1", "Tie", "b", "2", "EUR", ("x.png", "y.png")),
        RawRow(5, "2", "Bag", "b", "5", "EUR", ("z.png",)),
        RawRow(6, "1", "Hat", "b", "6", "EUR", ("w.png",)),
    ]
    assert [row.row for row in rows[3:]] == [7, 8]  # rows without a code belong to nobody
    assert len(list(read_table(table(tmp_path, content, columns=SHORT)))) == 7


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            HEADER.replace("full_price", "price") + ROW,
            ["line 1", "'full_price'", "catalog.columns.price=price", "title"],
        ),
        (HEADER.replace("imageurl", "title") + ROW, ["line 1", "this column 2 times", "'title'"]),
        (HEADER.replace(",", ";") + ROW.replace(",", ";"), ["line 1", "no such column", "catalog.delimiter=';'"]),
        ("", ["no such column", "nothing"]),
    ],
)
def test_a_missing_column_says_what_is_there(tmp_path: Path, content: str, parts: list[str]) -> None:
    options = table(tmp_path, content)
    line = message(options)
    assert line.startswith(options.table)
    assert all(part in line for part in parts), line


def test_a_missing_column_of_further_texts_and_of_a_typed_table_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"title": ["a"], "product_code": ["1"]}), tmp_path / "t.parquet")
    options = CatalogOptions(table=str(tmp_path / "t.parquet"))
    assert "t.parquet: has no such column (found 'category3_code')" in message(options)
    options = table(tmp_path, HEADER + ROW, columns={"further": {"brand": "Vendor"}})
    assert "'Vendor'" in message(options) and "catalog.columns.further.brand=" in message(options)


def test_a_delimiter_of_the_users_own(tmp_path: Path) -> None:
    options = table(tmp_path, (HEADER + ROW).replace(",", ";"), delimiter=";")
    assert [row.code for row in read_table(options)] == ["00042"]


def test_a_missing_table_names_those_nearby(tmp_path: Path) -> None:
    (tmp_path / "burberry.parquet").touch()
    assert "burberry.parquet" in message(CatalogOptions(table=str(tmp_path / "products.csv")))
    assert "no folder" in message(CatalogOptions(table=str(tmp_path / "nowhere" / "products.csv")))
    assert "no such product table" in message(CatalogOptions(table=str(tmp_path / "a b" / "products")))
    assert "can't be loaded as a data set" in message(CatalogOptions(table=str(tmp_path)))


def test_the_ending_decides_unless_the_format_is_given(tmp_path: Path) -> None:
    assert "catalog.format" in message(table(tmp_path, HEADER + ROW, "products.txt"))
    assert [row.code for row in read_table(table(tmp_path, HEADER + ROW, "products.txt", format="csv"))] == ["00042"]
    assert [row.code for row in read_table(table(tmp_path, HEADER + ROW, "PRODUCTS.CSV"))] == ["00042"]


@pytest.mark.usefixtures("cache")
def test_the_hash_follows_the_content_of_file_and_folder(tmp_path: Path) -> None:
    options = table(tmp_path, HEADER + ROW)
    assert table_sha256(options) == hashlib.sha256((HEADER + ROW).encode()).hexdigest()
    row = dict.fromkeys(NAMES, "1")
    hashes = set()
    for number, rows in enumerate(([row], [row], [row, row])):
        (tmp_path / str(number)).mkdir()
        hashes.add(table_sha256(CatalogOptions(table=write(tmp_path / str(number), "folder", rows))))
    assert len(hashes) == 2
    with pytest.raises(CatalogError, match="no such product table"):
        table_sha256(CatalogOptions(table=str(tmp_path / "none.csv")))
