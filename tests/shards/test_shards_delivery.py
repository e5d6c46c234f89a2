"""A later delivery adds tar files and touches none; pictures stay on their side of the split; a kill loses nothing."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from phi3v_dist.config.options import CatalogOptions, ShardOptions
from phi3v_dist.errors import ConfigError, ShardError
from phi3v_dist.shards import delivery
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.verify import verify_shards
from phi3v_dist.shards.write import make_shards


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def options(folder: Path) -> ShardOptions:
    return ShardOptions(folder=str(folder), samples_per_shard=5, workers=1)


@pytest.fixture
def first(made, tmp_path) -> Path:
    """A copy of the finished folder that a delivery may be added to."""
    return Path(shutil.copytree(made.folder, tmp_path / "shards"))


@pytest.fixture
def later(catalog, made, tmp_path) -> CatalogOptions:
    """A second table: N0 shows a training picture saved again, N1 a held-out one, N2 both; N3 is new, P0010 old."""
    index, root = load_index(made.folder), Path(catalog.table).parent
    with open(catalog.table, encoding="utf-8") as handle:
        pictures = {row["product_code"]: root / row["local_image_path"] for row in csv.DictReader(handle)}
    shown = {split: pictures[index.row(int(index.numbers(split)[0]))["product_code"]] for split in ("train", "heldout")}
    again = tmp_path / "again.jpg"
    Image.open(shown["train"]).convert("RGB").save(again, quality=80)
    new = tmp_path / "new.png"
    Image.radial_gradient("L").resize((64, 64)).save(new)
    rows = [
        ("N0", [again]),
        ("N1", [shown["heldout"]]),
        ("N2", [again, shown["heldout"]]),
        ("N3", [new]),
        ("P0010", [new]),
    ]
    lines = [
        {"product_code": code, "title": "Bag", "category3_code": "BAGS", "full_price": 5, "currency_code": "EUR",
         "local_image_path": [str(picture.absolute()) for picture in shown_by]}
        for code, shown_by in rows
    ]  # fmt: skip
    table = tmp_path / "later.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return catalog.model_copy(update={"table": str(table), "heldout_share": 0.0})


def test_an_added_delivery_makes_new_tar_files_and_leaves_the_old_ones(first, later, made):
    before = files_of(first)
    summary = make_shards(later, options(first), add=True)
    after = files_of(first)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: content for name, content in before.items() if name != "manifest.json"
    }
    new_tars = sorted(name for name in after.keys() - before.keys() if name.endswith(".tar"))
    assert new_tars == ["heldout/heldout-000002.tar", "train/train-000003.tar"]
    assert summary.counts == {"train": 2, "heldout": 1}
    assert summary.num_rows == 5 == sum(summary.counts.values()) + summary.num_rejects
    assert summary.num_samples == sum(made.counts.values()) + 3 and summary.num_deliveries == 2
    assert summary.rejects.name == "rejects-001.parquet"
    assert verify_shards(first) == []


def test_pictures_stay_on_their_side_and_what_links_both_is_rejected(first, later):
    make_shards(later, options(first), add=True)
    index = load_index(first)
    sides = dict(zip(index.column("product_code"), index.column("split"), strict=True))
    assert (sides["N0"], sides["N1"], sides["N3"], "N2" in sides) == ("train", "heldout", "train", False)
    manifest = json.loads((first / "manifest.json").read_text())
    rejects = pq.read_table(first / manifest["rejects"]["path"]).to_pylist()
    reasons = {reject["product_code"]: reject["reason"] for reject in rejects if "later" in reject["file"]}
    assert reasons == {"N2": "picture: shared with both splits", "P0010": "code: duplicate"}


def test_old_samples_keep_their_numbers_and_second_tools_read_the_new_ones(first, later, made):
    make_shards(later, options(first), add=True)
    old, new = load_index(made.folder), load_index(first)
    assert [new.row(number) for number in range(len(old))] == [old.row(number) for number in range(len(old))]
    tars = [str(first / name) for name in ("train/train-000003.tar", "heldout/heldout-000002.tar")]
    seen = [json.loads(sample["json"])["product_code"] for sample in webdataset.WebDataset(tars, shardshuffle=False)]
    assert seen == new.column("product_code")[len(old) :].tolist()


def test_the_same_delivery_twice_and_both_deliveries_again_change_nothing(first, later, catalog):
    make_shards(later, options(first), add=True)
    before = files_of(first)
    assert not make_shards(later, options(first), add=True).made_now
    assert not make_shards(catalog, options(first)).made_now
    assert files_of(first) == before
    with pytest.raises(ShardError, match=r"changed: the product table, heldout_share.*--add"):
        make_shards(later.model_copy(update={"table": catalog.table, "heldout_share": 0.4}), options(first))


@pytest.mark.parametrize("moment", ["write_index", "write_json", "move_in"])
def test_a_delivery_that_was_killed_leaves_the_folder_as_it_was_and_can_be_added_again(
    first, later, made, monkeypatch, moment, tmp_path
):
    place = delivery if hasattr(delivery, moment) else delivery.Staging
    real = getattr(place, moment)

    def killed(*arguments):
        if moment == "move_in":  # half of the files are there, the manifest is not
            real(arguments[0], arguments[1][:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, moment, killed)
        make_shards(later, options(first), add=True)
    assert verify_shards(first) == []
    assert len(load_index(first)) == len(load_index(made.folder))
    make_shards(later, options(first), add=True)
    again = Path(shutil.copytree(made.folder, tmp_path / "again"))
    make_shards(later, options(again), add=True)
    assert files_of(first) == files_of(again)


def test_a_killed_delivery_that_another_one_overtook_is_placed_anew(first, later, monkeypatch, tmp_path):
    """What it had found beside fewer products is of no use: the other one shows its pictures, on the other side."""
    other = later.model_copy(update={"table": str(shutil.copy(later.table, tmp_path / "other.jsonl"))})
    lines = Path(later.table).read_text().splitlines()
    Path(other.table).write_text(lines[3].replace("N3", "M3") + "\n")
    other = other.model_copy(update={"heldout_share": 1.0})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(delivery, "write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        make_shards(later, options(first), add=True)
    assert make_shards(other, options(first), add=True).counts == {"train": 0, "heldout": 1}
    make_shards(later, options(first), add=True)
    index = load_index(first)
    sides = dict(zip(index.column("product_code"), index.column("split"), strict=True))
    assert (sides["M3"], sides["N3"]) == ("heldout", "heldout")
    assert len(set(index.column("product_code"))) == len(index)
    assert [path.name for path in first.parent.glob(".shards*")] == []


def test_of_two_deliveries_at_once_the_second_is_told_to_start_again(first, later, monkeypatch, tmp_path):
    other = later.model_copy(update={"table": str(tmp_path / "other.jsonl")})
    Path(other.table).write_text(Path(later.table).read_text().splitlines()[3].replace("N3", "M3") + "\n")
    real = delivery.write_index

    def overtaken(*arguments):
        real(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(delivery, "write_index", real)
            make_shards(other, options(first), add=True)

    with monkeypatch.context() as patch:
        patch.setattr(delivery, "write_index", overtaken)
        with pytest.raises(ShardError, match=r"another delivery was added to it meanwhile.*Start again"):
            make_shards(later, options(first), add=True)
    assert verify_shards(first) == [] and "M3" in load_index(first).column("product_code")
    assert make_shards(later, options(first), add=True).num_deliveries == 3
    assert verify_shards(first) == []


@pytest.mark.parametrize("kind", ["rejects", "pictures"])
def test_damaged_files_of_earlier_deliveries_are_never_taken_over(first, later, kind):
    path = first / f"{kind}.parquet"
    content = bytearray(path.read_bytes())
    content[6] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match=rf"{kind}.parquet: is damaged, its XXH3-128 is not the manifest's"):
        make_shards(later, options(first), add=True)


def test_what_was_fetched_counts_only_where_a_table_names_urls(catalog, made, tmp_path):
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    (fetched / "fetched.sqlite").write_bytes(b"of another catalogue")
    elsewhere = catalog.model_copy(update={"fetched_folder": str(fetched)})
    assert not make_shards(elsewhere, options(made.folder)).made_now


def test_other_fetched_pictures_are_another_input_of_a_table_that_names_urls(catalog, later, tmp_path):
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    known, unknown = map(json.loads, Path(later.table).read_text().splitlines()[3:])
    unknown["local_image_path"] = ["https://shop.invalid/1.jpg"]
    table = tmp_path / "urls.jsonl"
    table.write_text(f"{json.dumps(known)}\n{json.dumps(unknown)}\n")
    urls = catalog.model_copy(update={"table": str(table), "fetched_folder": str(fetched)})
    made = make_shards(urls, options(tmp_path / "urls"))
    assert made.reasons == {"picture: not fetched": 1}
    assert not make_shards(urls, options(tmp_path / "urls")).made_now
    (fetched / "fetched.sqlite").write_bytes(b"fetched since")
    with pytest.raises(ShardError, match="changed: fetched_pictures"):
        make_shards(urls, options(tmp_path / "urls"))


def test_shards_are_not_made_behind_a_url(catalog):
    with pytest.raises(ConfigError, match=r"shards.folder: shards are made on a file system \(found 's3://a/b'\)"):
        make_shards(catalog, ShardOptions(folder="s3://a/b"))
