"""Shards as second tools read them, the same bytes whoever made them, and nothing half done."""

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phi3v_dist.catalog.rejects import SCHEMA as REJECTS_SCHEMA
from phi3v_dist.catalog.split import split_of
from phi3v_dist.config.options import CatalogOptions, ShardOptions
from phi3v_dist.errors import CatalogError, ShardError
from phi3v_dist.shards import delivery, write
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.manifest import unchecked_deliveries
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.shards.tars import key_of
from phi3v_dist.shards.verify import verify_shards
from phi3v_dist.shards.write import make_shards


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tars_of(folder: Path, split: str = "*") -> list[str]:
    return sorted((str(path) for path in folder.glob(f"{split}/*.tar")), key=lambda path: ("heldout/" in path, path))


def options(folder: Path, **changes: int) -> ShardOptions:
    return ShardOptions(folder=str(folder), **{"samples_per_shard": 5, "workers": 1} | changes)


@pytest.fixture
def small_catalog(catalog, tmp_path) -> CatalogOptions:
    """Four good products in a table of their own; the pictures lie beside the large one."""
    lines = Path(catalog.table).read_text(encoding="utf-8").splitlines(keepends=True)
    table = tmp_path / "small.csv"
    table.write_text("".join(lines[:5]), encoding="utf-8")
    return CatalogOptions(table=str(table), image_root=str(Path(catalog.table).parent), heldout_share=0)


def test_webdataset_reads_every_product_in_index_order(made, catalog, good_rows):
    seen = []
    for sample in webdataset.WebDataset(tars_of(made.folder), shardshuffle=False):
        told = json.loads(sample["json"])
        row = good_rows[told["product_code"]]
        (picture,) = (sample[name] for name in ("00.jpg", "00.png") if name in sample)
        assert picture == (Path(catalog.table).parent / row["local_image_path"]).read_bytes()
        assert (told["title"], told["category"], told["currency"]) == (row["title"], row["category3_code"], "EUR")
        assert told["price"] == float(row["full_price"])
        seen.append((sample["__key__"], told["product_code"]))
    index = load_index(made.folder)
    assert seen == list(zip(index.column("key"), index.column("product_code"), strict=True))
    assert {code for _, code in seen} == set(good_rows)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Path:
    """Shards of a JSONL table: product k has k + 1 pictures, kept as PNG or JPEG in the table's folder."""
    folder = tmp_path_factory.mktemp("gallery")
    lines = []
    for number in range(4):
        names = [f"{number}-{picture}.{'jpg' if picture % 2 else 'png'}" for picture in range(number + 1)]
        for name in names:
            Image.new("RGB", (30 + number, 40 + int(name[2])), (200, 10 * number, 0)).save(folder / name)
        told = {"product_code": f"P{number}", "title": "Größe", "category3_code": "Bags", "full_price": 10 + number}
        told |= {"currency_code": "EUR", "local_image_path": names, "maker": ["Acme", None][number % 2]}
        lines.append(json.dumps(told))
    (folder / "products.jsonl").write_text("\n".join(lines), encoding="utf-8")
    columns = {"further": {"brand": "maker"}}
    table = CatalogOptions(table=str(folder / "products.jsonl"), columns=columns, heldout_share=0, max_pictures=3)
    assert make_shards(table, options(folder / "shards", samples_per_shard=3)).counts == {"train": 4, "heldout": 0}
    return folder


def test_several_pictures_are_members_in_order_with_their_bytes(gallery):
    index = load_index(gallery / "shards")
    reader = ShardReader(index)
    seen = {}
    for sample in webdataset.WebDataset(tars_of(gallery / "shards"), shardshuffle=False):
        members = sorted(name for name in sample if name[0].isdigit())
        seen[json.loads(sample["json"])["product_code"]] = [(name, sample[name]) for name in members]
    for number in range(4):
        files = [gallery / f"{number}-{k}.{'jpg' if k % 2 else 'png'}" for k in range(min(3, number + 1))]
        told = [(f"{k:02d}{file.suffix}", file.read_bytes()) for k, file in enumerate(files)]
        assert seen[f"P{number}"] == told
        (place,) = [n for n in range(4) if index.row(n)["product_code"] == f"P{number}"]
        sample = reader.sample(place)
        assert sample.images == tuple(content for _, content in told)
        assert index.sizes(place) == [Image.open(file).size for file in files]
        assert sample.further == json.loads(index.row(place)["further"]) == {"brand": ["Acme", ""][number % 2]}


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_reads_varying_numbers_of_pictures(gallery, tmp_path, streaming):
    features = datasets.Features.from_dict(json.loads((gallery / "shards/manifest.json").read_text())["features"])
    loaded = datasets.load_dataset(
        "webdataset",
        data_files=tars_of(gallery / "shards"),
        features=features,
        streaming=streaming,
        cache_dir=str(tmp_path),
        split="train",
    )
    for sample in loaded:
        number = int(sample["json"]["product_code"][1:])
        there = [name for name in features if name[0].isdigit() and sample[name] is not None]
        assert there == ["00.png", "01.jpg", "02.png"][: number + 1]
        assert sample["json"]["further"] == {"brand": ["Acme", ""][number % 2]}


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_reads_jpeg_and_png_samples_by_the_manifests_features(made, tmp_path, streaming):
    features = datasets.Features.from_dict(json.loads((made.folder / "manifest.json").read_text())["features"])
    files = {split: tars_of(made.folder, split) for split in ("train", "heldout")}
    loaded = datasets.load_dataset(
        "webdataset", data_files=files, features=features, streaming=streaming, cache_dir=str(tmp_path)
    )
    index = load_index(made.folder)
    for split in files:
        numbers = index.numbers(split)
        for number, sample in zip(numbers, loaded[split], strict=True):
            row = index.row(number)
            assert sample["json"] == {name: row[name] for name in features["json"]} | {"further": {}}
            assert (sample["00.jpg"] or sample["00.png"]).size[0] in (*row["width"], *row["height"])


@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_are_the_same_whatever_the_number_of_workers(made, catalog, tmp_path, workers):
    make_shards(catalog, options(tmp_path / "shards", workers=workers))
    assert files_of(tmp_path / "shards") == files_of(made.folder)


def test_tar_headers_carry_no_clock_and_no_extra_header(made):
    for path in tars_of(made.folder):
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.mtime == 0
                assert member.offset_data == member.offset + 512


def test_split_and_order_follow_the_hash_of_the_code(made, catalog):
    index = load_index(made.folder)
    for code, split in zip(index.column("product_code"), index.column("split"), strict=True):
        assert split == split_of(code, catalog.heldout_share)
    categories = list(index.column("category")[index.numbers("train")])
    assert categories != sorted(categories)
    assert made.counts == {split: len(index.numbers(split)) for split in ("train", "heldout")}
    assert min(made.counts.values()) > 0


def test_rejects_and_samples_add_up_to_the_table(made, catalog):
    with open(catalog.table, encoding="utf-8") as handle:
        num_rows = sum(1 for _ in csv.DictReader(handle))
    rejects = pq.read_table(made.folder / "rejects.parquet")
    assert rejects.schema.equals(REJECTS_SCHEMA)
    assert made.num_rows == num_rows == sum(made.counts.values()) + rejects.num_rows
    assert sum(made.reasons.values()) == rejects.num_rows == 5
    assert rejects["row"].to_pylist() == sorted(rejects["row"].to_pylist())
    assert {"W1", "W2", "W3", "P0010", "W5"} == set(rejects["product_code"].to_pylist())


def test_rejects_are_typed_when_there_are_none_and_a_split_may_be_empty(small_catalog, tmp_path):
    summary = make_shards(small_catalog, options(tmp_path / "shards"))
    assert summary.counts == {"train": 4, "heldout": 0}
    assert pq.read_schema(tmp_path / "shards/rejects.parquet").equals(REJECTS_SCHEMA)
    assert load_index(tmp_path / "shards").numbers("heldout").tolist() == []


def test_second_run_writes_nothing(made, catalog):
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    again = make_shards(catalog, options(made.folder, workers=2))
    assert (again.made_now, again.counts, again.reasons) == (False, made.counts, made.reasons)
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == before


def test_changed_option_is_refused_and_named(made, catalog):
    with pytest.raises(ShardError, match=r"changed: heldout_share.*another folder"):
        make_shards(catalog.model_copy(update={"heldout_share": 0.5}), options(made.folder))


def test_changed_table_is_refused_and_named(made, catalog, tmp_path):
    table = tmp_path / "products.csv"
    table.write_text(Path(catalog.table).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ShardError, match="changed: the product table"):
        make_shards(catalog.model_copy(update={"table": str(table)}), options(made.folder))


def test_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CatalogError, match=r"none\.csv"):
        make_shards(CatalogOptions(table=str(tmp_path / "none.csv")), options(tmp_path / "shards"))


def test_folder_with_other_files_is_left_alone(small_catalog, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/letter.txt").write_text("mine")
    with pytest.raises(ShardError, match=r"letter\.txt"):
        make_shards(small_catalog, options(tmp_path / "shards"))
    assert files_of(tmp_path / "shards") == {"letter.txt": b"mine"}


def test_a_failed_run_leaves_nothing_under_the_name_and_goes_on_where_it_was(catalog, made, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(delivery, "write_index", full_disk)
        make_shards(catalog, options(tmp_path / "shards"))
    (staging,) = tmp_path.iterdir()
    assert staging.name.startswith(".shards.partial-")
    (left_by_kill,) = [path.with_name(".a.tar.1.partial") for path in staging.rglob("train-000000.tar")]
    left_by_kill.write_bytes(b"half a shard")
    with monkeypatch.context() as patch:
        patch.setattr(write, "_write_shelf", full_disk)  # a finished tar file is never written again
        patch.setattr(write, "_check_chunk", full_disk)  # nor a picture checked again
        make_shards(catalog, options(tmp_path / "shards"))
    assert files_of(tmp_path / "shards") == files_of(made.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_tar_files_are_full_whatever_was_rejected(made):
    manifest = json.loads((made.folder / "manifest.json").read_text())
    for split in ("train", "heldout"):
        samples = [shard["samples"] for shard in manifest["shards"] if shard["split"] == split]
        assert samples[:-1] == [5] * (len(samples) - 1)


@pytest.mark.parametrize("check", [True, False])
def test_a_picture_that_changes_while_shards_are_made_is_an_error_of_one_line(
    small_catalog, tmp_path, monkeypatch, check
):
    root = Path(shutil.copytree(small_catalog.image_root, tmp_path / "pictures"))
    catalog = small_catalog.model_copy(update={"image_root": str(root), "check_pictures": check})
    with monkeypatch.context() as patch, pytest.raises(OSError, match="stop"):
        patch.setattr(write, "_write_tars", stop)
        make_shards(catalog, options(tmp_path / "shards"))
    shutil.copy(root / "pictures/1.jpg", root / "pictures/0.jpg")
    with pytest.raises(CatalogError, match=r"row 2: the picture is not the one that was checked.*0\.jpg"):
        make_shards(catalog, options(tmp_path / "shards"))
    assert not (tmp_path / "shards").exists()


def stop(*_):
    raise OSError("stop")


def test_a_pictures_suffix_follows_its_content(made):
    for path in tars_of(made.folder):
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.name.endswith(".json"):
                    kind = Image.open(tar.extractfile(member)).format
                    assert member.name.endswith({"JPEG": ".00.jpg", "PNG": ".00.png"}[kind])


def test_picture_keeps_its_exif_turn_in_bytes_and_index(made):
    index = load_index(made.folder)
    (number,) = [n for n in range(len(index)) if index.row(n)["product_code"] == "b-12.5"]
    (stored,) = ShardReader(index).sample(number).images
    assert Image.open(io.BytesIO(stored)).size == (43, 60)
    assert index.sizes(number) == [(60, 43)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=150), unique=True, max_size=20))
def test_keys_are_unique_short_ascii_without_dots(codes):
    keys = [key_of(code) for code in codes]
    assert len(set(keys)) == len(codes)
    for key in keys:
        assert key.isascii() and key.isprintable() and not set(key) & set("./\\ ") and len(key) <= 80


def test_unchecked_pictures_give_the_same_tar_files_and_index(catalog, made, tmp_path):
    unchecked = catalog.model_copy(update={"check_pictures": False})
    make_shards(unchecked, options(tmp_path / "shards", samples_per_shard=100))
    index, before = load_index(tmp_path / "shards"), load_index(made.folder)
    columns = ["product_code", "split", "width", "height", "xxh3", "title", "price"]
    found, wanted = (told.table.select(columns).sort_by("product_code").to_pylist() for told in (index, before))
    assert found == wanted
    manifest = json.loads((tmp_path / "shards/manifest.json").read_text())
    assert "pictures of products.csv were never decoded" in unchecked_deliveries(manifest)
    assert unchecked_deliveries(json.loads((made.folder / "manifest.json").read_text())) == ""
    assert pq.read_table(tmp_path / "shards/pictures.parquet").num_rows == 0
    assert verify_shards(tmp_path / "shards") == []


def test_checked_and_unchecked_deliveries_share_a_folder(catalog, small_catalog, tmp_path):
    unchecked = small_catalog.model_copy(update={"check_pictures": False})
    make_shards(unchecked, options(tmp_path / "shards"))
    rest = make_shards(catalog, options(tmp_path / "shards"), add=True)
    assert rest.num_samples == 19
    others = tmp_path / "others"
    make_shards(small_catalog, options(others))
    rest = make_shards(catalog.model_copy(update={"check_pictures": False}), options(others), add=True)
    assert rest.num_samples == 19
    for folder in (tmp_path / "shards", others):
        assert verify_shards(folder) == []


def test_a_held_out_share_that_groups_move_is_told_in_one_line(made, catalog, tmp_path):
    assert made.split_note == ""
    lines = Path(catalog.table).read_text(encoding="utf-8").splitlines()
    shared = [f"S{number:03d},Same picture,Bags,10,EUR,,pictures/0.jpg" for number in range(60)]
    table = tmp_path / "products.csv"
    table.write_text("\n".join([*lines[:5], *shared, ""]), encoding="utf-8")
    changes = {"table": str(table), "image_root": str(Path(catalog.table).parent), "heldout_share": 0.2}
    for _ in range(2):  # at once, and when the folder stands
        summary = make_shards(catalog.model_copy(update=changes), options(tmp_path / "shards"))
        share = summary.counts["heldout"] / 64
        assert summary.split_note.startswith(f"{share:.1%} of the products are held out")
        assert "asks for 20.0%" in summary.split_note and "largest group has 61 (one is B-12.5)" in summary.split_note
        assert "\n" not in summary.split_note
    unchecked = catalog.model_copy(update=changes | {"check_pictures": False})
    assert make_shards(unchecked, options(tmp_path / "unchecked")).split_note == ""
