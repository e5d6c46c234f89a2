"""Typed tables as pyarrow, pandas and the datasets library write them; pictures stay bytes, damage is one line."""

import io
import shutil
from pathlib import Path

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.packaged_modules.parquet.parquet import Parquet
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from phi3v_dist.catalog.arrow_tables import open_arrow_file, open_dataset, open_parquet
from phi3v_dist.catalog.cells import cell_pictures, cell_text
from phi3v_dist.catalog.open_table import OpenTable, TableRow
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# A fixed type, as each batch of the null type would be one more of its own.
SCHEMA = pa.schema([("a", pa.string()), ("b", pa.list_(pa.string()))])


def cells_of(table: OpenTable, *columns: str) -> list[list[object]]:
    rows = list(table.rows(list(columns)))
    assert [row.row for row in rows] == list(range(1, len(rows) + 1))
    assert all(row.fits for row in rows)
    return [list(row.cells) for row in rows]


def parquet_cells(path: Path, table: pa.Table, *columns: str, **how: object) -> list[list[object]]:
    pq.write_table(table, path, **how)
    with open_parquet(path) as opened:
        return cells_of(opened, *columns)


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def test_rows_cross_batches_and_row_groups_in_order(tmp_path: Path) -> None:
    table = pa.table({"b": [f"{number:05d}" for number in range(1000)], "a": range(1000)})
    cells = parquet_cells(tmp_path / "t.parquet", table, "a", "b", row_group_size=300)
    assert cells == [[number, f"{number:05d}"] for number in range(1000)]


def test_typed_cells_keep_their_width(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"code": [42, None], "kind": pandas.Categorical(["Tie", "Bag"])})  # code: 42.0, NaN
    table = pa.Table.from_pandas(frame).append_column("single", pa.array([12.1, None], pa.float32()))
    cells = parquet_cells(tmp_path / "t.parquet", table, "code", "kind", "single")
    assert type(cells[0][0]).__name__ == "float64"  # what a column of whole numbers becomes with a cell missing
    assert [[cell_text(cell) for cell in row] for row in cells] == [["42", "Tie", "12.1"], ["", "Bag", ""]]


def test_text_that_is_not_utf8_is_a_fault_of_its_row_alone(tmp_path: Path) -> None:
    offsets, data = pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"aR\xe9")
    texts = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    assert parquet_cells(tmp_path / "t.parquet", pa.table({"a": texts}), "a") == [["a"], ["R\ufffd"]]


@pytest.mark.parametrize("stream", [False, True])
def test_arrow_files_of_both_formats_are_read(tmp_path: Path, stream: bool) -> None:
    table = pa.table({"a": [f"{number}" for number in range(300)], "b": [[b"x", b"y"]] * 300})
    writer = pa.ipc.new_stream if stream else pa.ipc.new_file
    with writer(str(tmp_path / "t.arrow"), table.schema) as out:
        out.write_table(table, max_chunksize=200)
    with open_arrow_file(tmp_path / "t.arrow") as opened:
        assert opened.names == ["a", "b"]
        assert cells_of(opened, "b", "a") == [[[b"x", b"y"], f"{number}"] for number in range(300)]


def saved(folder: Path) -> datasets.Dataset:
    """A data set with a picture in memory and one named by its path, as the Image feature stores them."""
    (folder / "b.png").write_bytes(png((20, 30)))
    features = datasets.Features({"code": datasets.Value("string"), "image": datasets.Image()})
    pictures = [{"bytes": png((30, 20)), "path": None}, {"bytes": None, "path": str(folder / "b.png")}]
    return datasets.Dataset.from_dict({"code": ["00042", "7"], "image": pictures}, features=features)


def test_pictures_of_a_saved_data_set_are_not_decoded(tmp_path: Path) -> None:
    saved(tmp_path).save_to_disk(tmp_path / "set")
    with open_dataset(CatalogOptions(table=str(tmp_path / "set"))) as opened:
        cells = cells_of(opened, "code", "image")
    assert [code for code, _ in cells] == ["00042", "7"]
    assert cell_pictures(cells[0][1]) == [png((30, 20))]
    # save_to_disk takes the bytes of a path into the table
    assert [len(cell_pictures(cell)) for _, cell in cells] == [1, 1]


def test_a_split_of_a_saved_dictionary_is_chosen_and_a_wrong_one_lists_them(tmp_path: Path) -> None:
    whole = saved(tmp_path)
    datasets.DatasetDict({"train": whole, "test": whole.select([1])}).save_to_disk(tmp_path / "set")
    options = CatalogOptions(table=str(tmp_path / "set"), dataset_split="test")
    with open_dataset(options) as opened:
        assert cells_of(opened, "code") == [["7"]]
    wrong = options.model_copy(update={"dataset_split": "val"})
    with pytest.raises(CatalogError, match=r"Unknown split 'val'. There is: train, test"), open_dataset(wrong):
        pass


def test_a_folder_of_data_files_is_loaded_by_the_datasets_library(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "shop").mkdir()
    for number in range(2):
        pq.write_table(pa.table({"a": [f"0{number}"]}), tmp_path / f"shop/train-{number}.parquet")
    with open_dataset(CatalogOptions(table=str(tmp_path / "shop"))) as opened:
        assert sorted(cells_of(opened, "a")) == [["00"], ["01"]]


def test_a_data_set_of_the_hub_is_read_by_its_name(tmp_path: Path, monkeypatch) -> None:
    """As a node without a network meets it: downloaded before, in the cache that the datasets library keeps."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    file, how = tmp_path / "products.parquet", {"dataset_name": "products", "config_name": "default", "hash": "0" * 16}
    saved(tmp_path).to_parquet(file)
    builder = Parquet(cache_dir=str(tmp_path / "made"), data_files={"train": [str(file)]}, **how)
    builder.download_and_prepare()
    shutil.copytree(builder.cache_dir, cache / "our-shop___products/default/0.0.0" / how["hash"])
    with open_dataset(CatalogOptions(table="our-shop/products")) as opened:
        cells = cells_of(opened, "code", "image")
    assert [(code, len(cell_pictures(cell))) for code, cell in cells] == [("00042", 1), ("7", 1)]
    wrong = CatalogOptions(table="our-shop/products", dataset_split="val")
    with (
        pytest.raises(CatalogError, match=r"our-shop/products: can't be loaded as a data set: .*val"),
        open_dataset(wrong),
    ):
        pass


@pytest.mark.parametrize("name", ["phi3v-dist/no-such-products", "no_such_products"])
def test_a_data_set_that_cannot_be_loaded_is_one_line(name: str) -> None:
    with pytest.raises(CatalogError, match=rf"^{name}: can't be loaded as a data set: .*Set catalog\.table") as caught:
        open_dataset(CatalogOptions(table=name)).__enter__()
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [f"{number}" for number in range(5000)]}), path, write_page_checksum=True)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:50], b"", b"a,b\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(CatalogError, match=r"t\.parquet: isn't a whole table: "), open_parquet(path):
            pass
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    with pytest.raises(CatalogError, match=r"t\.parquet behind row 0: is damaged: .*"), open_parquet(path) as table:
        list(table.rows(["a"]))
    (tmp_path / "t.arrow").write_bytes(b"ARROW1\0\0 nothing")
    with pytest.raises(CatalogError, match="isn't a whole table"), open_arrow_file(tmp_path / "t.arrow"):
        pass


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    table = pa.table({"a": ["1", "2"], "picture": [png((9, 9)), b""], "a.b": ["x", "y"]})
    assert parquet_cells(tmp_path / "t.parquet", table, "a.b", "a") == [["x", "1"], ["y", "2"]]


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(TEXT | st.none(), st.lists(TEXT) | st.none()), max_size=6))
def test_what_pyarrow_writes_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple]) -> None:
    folder = tmp_path_factory.mktemp("arrow")
    table = pa.table([[row[column] for row in rows] for column in (0, 1)], schema=SCHEMA)
    assert parquet_cells(folder / "t.parquet", table, "a", "b") == [list(row) for row in rows]
    with pa.ipc.new_file(str(folder / "t.arrow"), SCHEMA) as out:
        out.write_table(table)
    with open_arrow_file(folder / "t.arrow") as opened:
        assert list(opened.rows(["a", "b"])) == [TableRow(number, row) for number, row in enumerate(rows, start=1)]


def test_a_parquet_table_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "products.parquet"
    part = pa.table({"picture": [bytes(2**15)] * 256})
    with pq.ParquetWriter(path, part.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(12):
            writer.write_table(part)  # a row group of 8 MB
    before = pa.total_allocated_bytes()
    with open_parquet(path) as table:
        held = [pa.total_allocated_bytes() - before for _ in table.rows(["picture"])]
    assert len(held) == 12 * 256 and max(held) < 40 * 2**20
