"""Tar files of others: read as webdataset reads them, untouched, and every sample without use is named."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
import webdataset
from PIL import Image
from webdataset.writer import TarWriter

from phi3v_dist.catalog.split import split_of
from phi3v_dist.config.options import CatalogOptions, ColumnOptions, ShardOptions
from phi3v_dist.errors import ShardError
from phi3v_dist.shards.adopt import adopt_tars
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.shards.verify import verify_shards
from phi3v_dist.shards.write import make_shards

NAMES = ["jpg", "0.jpg", "image.png", "JPG"]  # what others call a picture
OPTIONS = CatalogOptions(
    currency="USD",
    columns=ColumnOptions(
        product_code="sku", title=("caption", "name"), category="class", price="usd", currency=None,
        further={"maker": "brand"},
    ),
)  # fmt: skip


def _picture(number: int, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (30 + number, 40), (number * 9 % 255, 90, 120)).save(stream, kind)
    return stream.getvalue()


def _sample(number: int, **changes) -> dict:
    suffix = NAMES[number % len(NAMES)]
    told = {"sku": f"S{number}", "caption": f"Bag {number}", "class": "Bags", "usd": 9.5 + number, "brand": "Ä & Co"}
    picture = _picture(number, "PNG" if suffix.endswith("png") else "JPEG")
    return {"__key__": f"part/{number:04d}", suffix: picture, "json": json.dumps(told | changes).encode(), "txt": b"x"}


def _write(path: Path, samples: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path), encoder=False) as tar:  # a float clock: PAX headers, as many tools write them
        for sample in samples:
            tar.write(sample)
    return path


def _hashes(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.tar")}


@pytest.fixture
def tars(tmp_path) -> Path:
    _write(tmp_path / "train/00.tar", [_sample(number) for number in range(6)])
    _write(tmp_path / "train/01.tar", [_sample(number) for number in range(6, 8)])
    _write(tmp_path / "val/00.tar", [_sample(number) for number in range(8, 12)])
    return tmp_path


def test_every_sample_is_what_webdataset_reads(tars):
    before = _hashes(tars)
    adoption = adopt_tars(tars, OPTIONS, None, skip=False)
    assert (adoption.written, adoption.split_by, adoption.unusable) == (True, "folder", [])
    assert adoption.counts == {"train": 8, "heldout": 4}
    assert _hashes(tars) == before
    index = load_index(tars)
    streamed = list(webdataset.WebDataset(sorted(before), shardshuffle=False))
    read = list(ShardReader(index).samples(range(12)))
    for sample, truth in zip(read, streamed, strict=True):
        told = json.loads(truth["json"])
        assert (sample.key, sample.product_code) == (truth["__key__"], told["sku"])
        assert (sample.title, sample.category, sample.price) == (told["caption"], "Bags", told["usd"])
        assert (sample.currency, sample.further) == ("USD", {"maker": "Ä & Co"})
        assert sample.images == tuple(truth[name] for name in ("jpg", "0.jpg", "image.png") if name in truth)
    assert [index.sizes(number) for number in range(12)] == [[(30 + number, 40)] for number in range(12)]
    assert verify_shards(tars) == []


def test_a_split_by_code_is_that_of_product_tables(tars):
    adoption = adopt_tars(tars, OPTIONS.model_copy(update={"heldout_share": 0.5}), "code", skip=False)
    index = load_index(tars)
    expected = [split_of(f"S{number}", 0.5) for number in range(12)]
    assert index.column("split").tolist() == expected
    assert adoption.counts == {split: expected.count(split) for split in ("train", "heldout")}
    assert verify_shards(tars) == []


def test_several_pictures_stand_in_the_order_of_their_numbers(tmp_path):
    pictures = {f"{number}.jpg": _picture(number, "JPEG") for number in (0, 2, 10)}
    sample = {"__key__": "a", "json": json.dumps({"caption": "Bag", "class": "Bags", "usd": 3}).encode()}
    _write(tmp_path / "x.tar", [sample | pictures])
    adopt_tars(tmp_path, OPTIONS, None, skip=False)
    (read,) = ShardReader(load_index(tmp_path)).samples([0])
    assert read.images == tuple(pictures.values())
    assert read.product_code == "a"  # no sku: the key is the code


FAULTS = {
    "json: missing": {key: value for key, value in _sample(20).items() if key != "json"},
    "picture: missing": {"__key__": "20", "json": b"{}"},
    "json: can't be read": _sample(20) | {"json": b"{'a': 1}"},
    "json: no object": _sample(20) | {"json": b"[]"},
    "picture: not a picture": _sample(20) | {"jpg": b"<html>"},
    "title: empty": _sample(20, caption="", name=" "),
    "price: not a number": _sample(20, usd="nine"),
    "code: duplicate": _sample(20, sku="S1"),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_sample_without_use_is_named_by_shard_offset_and_key(tars, reason):
    wrong = FAULTS[reason]
    path = _write(tars / "train/02.tar", [_sample(30), wrong, _sample(31)])
    adoption = adopt_tars(tars, OPTIONS, None, skip=False)
    assert not adoption.written and not (tars / "manifest.json").exists() and not (tars / "index.parquet").exists()
    (fault,) = adoption.unusable
    with tarfile.open(path) as tar:
        offset = min(member.offset_data for member in tar if member.name.startswith(f"{wrong['__key__']}."))
    assert (fault.file, fault.reason) == ("train/02.tar", reason)
    assert fault.value.startswith(f"byte {offset}, key {wrong['__key__']}")

    adoption = adopt_tars(tars, OPTIONS, None, skip=True)
    assert adoption.written and sum(adoption.counts.values()) == 14
    manifest = json.loads((tars / "manifest.json").read_text())
    assert manifest["rejects"]["by_reason"] == {reason: 1} and manifest["adopted"]["rows"] == 15
    assert verify_shards(tars) == []


def test_prices_in_another_currency_are_refused(tars):
    columns = OPTIONS.columns.model_copy(update={"currency": ("money",)})
    _write(tars / "train/02.tar", [_sample(30, money="EUR"), _sample(31, money="USD")])
    options = OPTIONS.model_copy(update={"columns": columns})
    unusable = adopt_tars(tars, options, None, skip=True).unusable
    assert len(unusable) == 13 and all("expected USD" in fault.value for fault in unusable)
    assert load_index(tars).column("product_code").tolist() == ["S31"]


@pytest.mark.parametrize("harm", ["cut", "gz", "text"])
def test_a_tar_file_that_can_not_be_read_is_named(tars, harm):
    path = tars / "train/01.tar"
    content = path.read_bytes()
    if harm == "gz":
        import gzip

        path.write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content[:3000] if harm == "cut" else b"hello" * 500)
    adoption = adopt_tars(tars, OPTIONS, None, skip=False)
    assert not adoption.written
    assert {(fault.file, fault.reason) for fault in adoption.unusable} == {("train/01.tar", "tar: can't be read")}


def test_a_split_by_folder_needs_folders(tmp_path):
    _write(tmp_path / "x.tar", [_sample(1)])
    with pytest.raises(ShardError, match=r"x\.tar: lies in no folder that names a split"):
        adopt_tars(tmp_path, OPTIONS, "folder", skip=False)
    assert adopt_tars(tmp_path, OPTIONS, None, skip=False).split_by == "code"
    with pytest.raises(ShardError, match="has an index already"):
        adopt_tars(tmp_path, OPTIONS, None, skip=False)


def test_no_delivery_can_follow_the_tars_of_others(tars, catalog):
    adopt_tars(tars, OPTIONS, None, skip=False)
    with pytest.raises(ShardError, match="made by others"):
        make_shards(catalog, ShardOptions(folder=str(tars)))


def test_a_folder_without_tars_is_one_line(tmp_path):
    with pytest.raises(ShardError, match=r"no \*.tar below this folder"):
        adopt_tars(tmp_path, OPTIONS, None, skip=False)
