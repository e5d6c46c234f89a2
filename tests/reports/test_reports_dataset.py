"""The page of a data set: its numbers are those of the catalogue, counted by the csv module and by hand."""

import base64
import csv
import io
import json
import random
import shutil
import statistics
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_page import HOSTILE, Page

from phi3v_dist.catalog.checks import Reject
from phi3v_dist.catalog.rejects import rejects_table
from phi3v_dist.catalog.split import split_of
from phi3v_dist.config.options import CatalogOptions, ColumnOptions, DocumentOptions, RunConfig, ShardOptions
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.errors import ConfigError, RunError, ShardError
from phi3v_dist.files import sha256_of, xxh3_of
from phi3v_dist.reports.dataset import write_dataset_report
from phi3v_dist.reports.folder import write_report
from phi3v_dist.reports.rejected import MOST_ROWS, reject_tiles
from phi3v_dist.shards.adopt import adopt_tars
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.manifest import MANIFEST_NAME, read_manifest
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.shards.verify import verify_shards
from phi3v_dist.shards.write import make_shards

COLUMNS = ["code", "title", "kind", "price", "picture", "picture2", "brand"]
NUM_GOOD = 40
SHARE = 0.3
SQUARE, TALL = (60, 60), (60, 80)
# By the model's own rule, at most 16 crops: a square is 4 × 4 crops, 3:4 is 4 rows of 3; both with the global view.
TOKENS = {SQUARE: 17 * 144 + 1 + 5 * 12, TALL: 13 * 144 + 1 + 5 * 12}


def _options(table: Path, **changes) -> CatalogOptions:
    columns = ColumnOptions(
        product_code="code", title="title", category="kind", price="price", currency=None,
        image_path=("picture", "picture2"), further={"brand": "brand"},
    )  # fmt: skip
    known = {"heldout_share": SHARE, "max_reject_share": 0.5, "currency": "EUR"}
    return CatalogOptions(table=str(table), columns=columns, **known | changes)


def _draw(path: Path, number: int, size: tuple[int, int]) -> str:
    colours = random.Random(number).randbytes(48)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.frombytes("RGB", (4, 4), colours).resize(size, Image.Resampling.NEAREST).save(path)  # no two look alike
    return f"pictures/{path.name}"


def _good_rows(folder: Path, first: int = 0, count: int = NUM_GOOD) -> list[list[str]]:
    """Every third product is tall, every fourth has a second picture, which is square; prices from 2 to 20,000."""
    rows = []
    for number in range(first, first + count):
        size = TALL if number % 3 == 0 else SQUARE
        pictures = [_draw(folder / f"pictures/{number}.png", number, size)]
        if number % 4 == 0:
            pictures.append(_draw(folder / f"pictures/{number}b.png", 1000 + number, SQUARE))
        kind = HOSTILE if number % 10 == 0 else ("Bags", "Hats")[number % 2]
        brand = "Ä & Co" if number % 5 == 0 else ""
        price = f"{2 + 500 * number if number else 2}.50"
        rows.append([f"P{number}", f"{HOSTILE} {number}", kind, price, pictures[0], (*pictures, "")[1], brand])
    return rows


def _write_table(folder: Path, rows: list[list[str]], name: str = "products.csv") -> Path:
    with open(folder / name, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([COLUMNS, *rows])
    return folder / name


@dataclass(frozen=True)
class Made:
    folder: Path
    table: Path
    rows: list[list[str]]  # the good ones
    page: Page


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("dataset")
    good = _good_rows(folder)
    tiny = _draw(folder / "pictures/tiny.png", 5000, (4, 4))
    (folder / "pictures/torn.png").write_bytes((folder / "pictures/1.png").read_bytes()[:60])
    wrong = [
        ["W1", "No price", "Bags", HOSTILE, good[0][4], "", ""],
        ["W2", "No picture", "Bags", "5", "pictures/none.png", "", ""],
        ["W3", "Tiny picture", "Bags", "5", tiny, "", ""],
        ["W4", "Tiny picture", "Bags", "5", tiny, "", ""],
        ["W5", "Torn picture", "Bags", "5", "pictures/torn.png", "", ""],
        ["W6", "Picture on the web", "Bags", "5", "https://shop.example/a.jpg", "", ""],
    ]
    table = _write_table(folder, [*good, *wrong])
    make_shards(_options(table), ShardOptions(folder=str(folder / "shards"), samples_per_shard=9, workers=1))
    path = write_report(folder / "shards")
    return Made(folder / "shards", table, good, Page(path.read_text(encoding="utf-8")))


def _facts(page: Page) -> dict[str, str]:
    return dict(zip(page.texts, page.texts[1:], strict=False))


def _adopted(folder: Path, samples: list[dict]) -> Path:
    (folder / "train").mkdir(parents=True)
    with tarfile.open(folder / "train/00.tar", "w") as tar:
        for sample in samples:
            for name, content in sample.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    columns = ColumnOptions(product_code="sku", title="caption", category="class", price="usd", currency=None)
    adoption = adopt_tars(folder, CatalogOptions(currency="USD", columns=columns), None, skip=True)
    assert adoption.written
    return folder


def _tar_sample(number: int, **changes) -> dict[str, bytes]:
    stream = io.BytesIO()
    Image.new("RGB", (30, 40), (number * 20, 90, 120)).save(stream, "PNG")
    told = {"sku": f"S{number}", "caption": f"Bag {number}", "class": "Bags", "usd": 9.5} | changes
    return {f"{number:04d}.png": stream.getvalue(), f"{number:04d}.json": json.dumps(told).encode()}


def test_every_row_of_the_table_is_accounted_for(made):
    heldout = sum(split_of(row[0], SHARE) == "heldout" for row in made.rows)
    counts = {
        "train products": NUM_GOOD - heldout,
        "heldout products": heldout,
        "rejected: picture: too small": 2,
        "rejected: picture: missing": 1,
        "rejected: picture: not fetched": 1,
        "rejected: picture: truncated": 1,
        "rejected: price: not a number": 1,
    }
    assert 0 < heldout < NUM_GOOD
    for name, count in counts.items():
        assert made.page.row(name) == [str(count), f"{count / 46:.2%}"]
    assert made.page.row("rows of all tables") == ["46", "100.00%"]
    assert sum(counts.values()) == 46
    assert "not accounted for" not in made.page.texts


def test_facts_and_deliveries_are_those_of_the_files(made):
    facts = _facts(made.page)
    tars = list(made.folder.rglob("*.tar"))
    assert facts["products"] == "40" and facts["tar files"] == str(len(tars))
    assert facts["pictures"] == str(NUM_GOOD + sum(row[5] != "" for row in made.rows)) == "50"
    assert facts["bytes"] == f"{sum(tar.stat().st_size for tar in tars) / 1e6:.1f} MB"
    assert facts["deliveries"] == "1"
    assert made.page.row("products.csv") == ["46", f"{sha256_of(made.table)[:12]}…"]


def test_categories_are_counted_by_split(made):
    counts = Counter((row[2], split_of(row[0], SHARE)) for row in made.rows)
    assert "3 categories." in made.page.texts
    for kind in ("Bags", "Hats", HOSTILE):
        train, heldout = counts[kind, "train"], counts[kind, "heldout"]
        assert made.page.row(kind) == ["", str(train), str(heldout), f"{heldout / (train + heldout):.1%}"]


def test_prices_and_text_lengths_are_those_of_the_table(made):
    for split in ("train", "heldout"):
        prices = [float(row[3]) for row in made.rows if split_of(row[0], SHARE) == split]
        count, mean, least, _, median, _, most = made.page.row(f"{split}, EUR")
        assert int(count) == len(prices)
        for shown, truth in ((least, min(prices)), (median, statistics.median(prices)), (most, max(prices)),
                             (mean, statistics.mean(prices))):  # fmt: skip
            assert float(shown.replace(",", "")) == pytest.approx(truth, abs=0.5)
    titles = [len(row[1]) for row in made.rows]
    assert made.page.row("title (characters)")[0] == "40"
    assert made.page.row("title (characters)")[2::4] == [str(min(titles)), str(max(titles))]
    assert made.page.row("further.brand (characters)") == ["8", *["6"] * 6]
    assert "Products without one: further.brand: 32." in made.page.texts


def test_bars_of_wide_prices_grow_by_a_factor_and_count_every_product(made):
    words, heights = made.page.bars("Price (EUR)")
    edges = [tuple(float(edge.replace(",", "")) for edge in name.split(" to ")) for name in words]
    assert all(after / first == pytest.approx((19_502.5 / 2.5) ** (1 / 24), rel=0.02) for first, after in edges)
    assert sum(words.values()) == NUM_GOOD and len(heights) == 24
    drawn = [height for height in heights if height]
    assert [height / max(heights) for height in drawn] == pytest.approx(
        [count / max(words.values()) for count in words.values()], abs=0.01
    )


def test_named_bars_are_as_high_as_their_counts(made):
    two = sum(row[5] != "" for row in made.rows)
    words, heights = made.page.bars("Pictures of a product")
    assert words == {"1": NUM_GOOD - two, "2": two}
    assert heights[1] / heights[0] == pytest.approx(two / (NUM_GOOD - two), abs=0.01)


def test_tokens_and_crops_of_both_settings_follow_the_models_rule(made):
    tokens, crops = Counter(), Counter()
    for number, row in enumerate(made.rows):
        sizes = [TALL if number % 3 == 0 else SQUARE, *([SQUARE] if row[5] else [])]
        tokens[f"{sum(TOKENS[size] for size in sizes):,}"] += 1
        crops[str(sum(13 if size == TALL else 17 for size in sizes))] += 1
    assert made.page.bars("Tokens of a product, at most 16 crops a picture")[0] == tokens
    assert made.page.bars("Crops of a product, at most 16 a picture")[0] == crops
    two = sum(row[5] != "" for row in made.rows)
    few = 5 * 144 + 1 + 3 * 12  # 2 × 2 crops and the global view
    assert made.page.bars("Tokens of a product, at most 4 crops a picture")[0] == {
        f"{few:,}": NUM_GOOD - two, f"{2 * few:,}": two,
    }  # fmt: skip


def test_with_a_recipe_its_model_counts_the_texts(small_demo, tmp_path):
    shards = Path(shutil.copytree(small_demo.folder / "shards", tmp_path / "shards"))
    model = str(small_demo.folder / "base")
    page = Page(
        write_dataset_report(shards, RunConfig.model_validate({"model": {"folder": model}})).read_text(encoding="utf-8")
    )
    index = load_index(shards)
    for num_crops in (16, 4):
        processor = DocumentProcessor.from_folder(model, DocumentOptions(num_crops=num_crops))
        documents = map(processor.document, ShardReader(index).samples(range(len(index))))
        lengths = [len(document.input_ids) for document in documents]
        row = page.row(f"tokens of a product, at most {num_crops} crops a picture")
        told = [len(lengths), statistics.mean(lengths), min(lengths), statistics.median(lengths), max(lengths)]
        assert [float(row[place].replace(",", "")) for place in (0, 1, 2, 4, 6)] == pytest.approx(told, rel=1e-3)
    assert any(text.startswith("Tokens of whole documents, texts counted by") for text in page.texts)


def test_texts_of_products_and_rejects_are_never_markup(made):
    assert "script" not in made.page.tags
    assert sum(HOSTILE in text for text in made.page.texts) > 20
    assert HOSTILE in made.page.texts  # the price that is none


def test_the_page_needs_no_other_file_and_every_picture_is_told_in_words(made):
    assert made.page.addresses and all(address.startswith("data:") for address in made.page.addresses)
    assert "link" not in made.page.tags
    assert all(told["alt"] for _, told in made.page.pictures)


def test_rejects_stand_with_their_picture_or_with_why_there_is_none(made):
    alts = made.page.thumbnails()
    assert sorted(alt.split()[-1] for alt in alts if alt.startswith("picture of rejected")) == ["W1", "W3", "W4"]
    assert sum(alt.startswith(HOSTILE) for alt in alts) == 24
    for why in ("its picture can't be read: No such file or directory", "its picture: truncated",
                "its picture is on the web: not fetched"):  # fmt: skip
        assert made.page.texts.count(why) == 1
    assert "products.csv, row 42" in made.page.texts


def test_a_reject_whose_table_changed_or_is_gone_says_so(made, tmp_path):
    shutil.copytree(made.table.parent, tmp_path / "there")
    table = _write_table(tmp_path / "there", [*made.rows, ["W1", "No price", "Bags", "x", made.rows[0][4], "", ""]])
    shards = tmp_path / "there/new"
    make_shards(_options(table), ShardOptions(folder=str(shards), workers=1))
    (tile,) = reject_tiles(shards, read_manifest(shards), 10)
    assert tile.picture and tile.why == ""
    _write_table(table.parent, [["X", *row[1:]] for row in [*made.rows, made.rows[0]]])
    (tile,) = reject_tiles(shards, read_manifest(shards), 10)
    assert (tile.picture, tile.why) == (None, "the product table was changed since")
    _write_table(table.parent, made.rows[:3])
    (tile,) = reject_tiles(shards, read_manifest(shards), 10)
    assert tile.why == f"its row is not among the first {MOST_ROWS:,} of the table"
    table.unlink()
    (tile,) = reject_tiles(shards, read_manifest(shards), 10)
    assert tile.why == f"the product table is not at {table}"


def test_tiles_of_rejects_are_few_and_of_every_reason(tmp_path):
    reasons = {f"price: fault {number}": 400 - number for number in range(12)}
    rejects = [Reject("gone.csv", 1, "", reason, "x") for reason, count in reasons.items() for _ in range(count)]
    manifest = _with_rejects(tmp_path, rejects, reasons)
    tiles = reject_tiles(tmp_path, manifest, 24)
    assert Counter(tile.reason for tile in tiles) == dict.fromkeys(reasons, 2)
    assert [tile.reason for tile in reject_tiles(tmp_path, manifest, 5)] == list(reasons)[:5]


def _with_rejects(folder: Path, rejects: list[Reject], reasons: dict[str, int]) -> dict:
    pq.write_table(rejects_table(rejects), folder / "rejects.parquet", row_group_size=700)
    path = folder / "rejects.parquet"
    told = {"path": path.name, "bytes": path.stat().st_size, "xxh3_128": xxh3_of(path), "by_reason": reasons}
    return {"rejects": told, "deliveries": [{"table": "gone.csv", "options": {}}]}


def test_damaged_rejects_are_one_line(tmp_path):
    manifest = _with_rejects(tmp_path, [], {})
    content = bytearray((tmp_path / "rejects.parquet").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "rejects.parquet").write_bytes(content)
    with pytest.raises(ShardError, match=r"rejects.parquet: is damaged"):
        reject_tiles(tmp_path, manifest, 5)


def test_nothing_held_out_is_said(tmp_path):
    table = _write_table(tmp_path, _good_rows(tmp_path, count=6))
    make_shards(_options(table, heldout_share=0), ShardOptions(folder=str(tmp_path / "shards"), workers=1))
    page = Page(write_report(tmp_path / "shards").read_text(encoding="utf-8"))
    assert _facts(page)["held-out share"] == "0.0%"
    assert page.row("heldout products") == ["0", "0.00%"]
    assert any("3 of them without a held-out product" in text for text in page.texts)
    assert "Nothing was rejected." in page.texts
    assert verify_shards(tmp_path / "shards") == []  # the page lies beside, nothing was touched


def test_later_deliveries_are_on_the_page(made, tmp_path):
    shards = Path(shutil.copytree(made.folder, tmp_path / "shards"))
    more = _write_table(made.table.parent, _good_rows(made.table.parent, first=50, count=5), "more.csv")
    make_shards(_options(more), ShardOptions(folder=str(shards), samples_per_shard=9, workers=1), add=True)
    page = Page(write_report(shards).read_text(encoding="utf-8"))
    facts = _facts(page)
    assert (facts["products"], facts["deliveries"], facts["rejected"]) == ("45", "2", "6")
    assert page.row("rows of all tables")[0] == "51" and page.row("more.csv")[0] == "5"


def test_adopted_tars_have_a_page(tmp_path):
    folder = _adopted(tmp_path / "tars", [_tar_sample(number) for number in range(4)])
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.row("samples in the tar files") == ["4", "100.00%"]
    assert page.row("Bags") == ["", "4", "0", "0.0%"]
    assert len(page.thumbnails()) == 4 and "Nothing was rejected." in page.texts


def test_what_adopted_tars_hold_without_use_is_shown_out_of_them(tmp_path):
    samples = [_tar_sample(0), _tar_sample(1, usd="ten"), _tar_sample(2), {"0003.json": b"{}"}]
    folder = _adopted(tmp_path / "tars", samples)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.row("rejected: price: not a number") == ["1", "25.00%"]
    manifest = read_manifest(folder)
    tiles = {tile.reason: tile for tile in reject_tiles(folder, manifest, 10)}
    shown = tiles["price: not a number"].picture
    assert shown is not None and any(address == shown for address in page.addresses)
    red, _, _ = Image.open(io.BytesIO(base64.b64decode(shown.split(",")[1]))).getpixel((15, 20))
    assert abs(red - 20) < 6  # of the second sample, not of its neighbours
    assert tiles["picture: missing"].why == "the product names no picture"
    (folder / "train/00.tar").rename(folder / "train/away.tar")
    tile = next(tile for tile in reject_tiles(folder, manifest, 10) if tile.reason == "price: not a number")
    assert tile.why.startswith("its tar file can't be read")


def test_equal_inputs_give_equal_pages(made):
    before = (made.folder / "report.html").read_bytes()
    assert write_report(made.folder).read_bytes() == before


def test_a_damaged_sample_is_told_in_its_tile(made, tmp_path):
    shards = Path(shutil.copytree(made.folder, tmp_path / "shards"))
    path = shards / read_manifest(shards)["shards"][0]["path"]
    content = bytearray(path.read_bytes())
    content[512:600] = bytes(88)
    path.write_bytes(content)
    page = Page(write_report(shards).read_text(encoding="utf-8"))
    assert any(text.startswith("damaged: the bytes are not the ones") for text in page.texts)


def test_a_folder_of_neither_kind_is_one_line_that_names_both(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(RunError, match=r"neither shards \(manifest.json, .*\) nor a run \(train/metrics.jsonl\)"):
        write_report(tmp_path)


def test_a_recipe_beside_a_run_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/metrics.jsonl").touch()
    with pytest.raises(ConfigError, match=r"--config: only the page of a data set"):
        write_report(tmp_path, "launch/recipes/demo_cpu.yaml")


def test_a_manifest_that_promises_more_than_there_is_ends_in_one_line(made, tmp_path):
    shutil.copy(made.folder / MANIFEST_NAME, tmp_path)
    with pytest.raises(ShardError, match="missing"):
        write_report(tmp_path)
