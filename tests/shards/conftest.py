"""A catalogue of 24 rows drawn with Pillow: good products of many kinds, and five rows that are wrong on purpose."""

import csv
import random
import shutil
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from phi3v_dist.config.options import CatalogOptions, ShardOptions
from phi3v_dist.shards.write import ShardSummary, make_shards

ODD_CODES = ["B-12.5", "B-12/5", "ß 4711", "b-12.5", "L" * 130]
NUM_GOOD = 19
LYING_NAMES = [4]  # a PNG in a file that is called .jpg; product 4 has the longest code as well
COLUMNS = ["product_code", "title", "category3_code", "full_price", "currency_code", "imageurl", "local_image_path"]


def draw_picture(path: Path, number: int, size: tuple[int, int], turn: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, (250, 250, 245))
    drawing = ImageDraw.Draw(picture)
    colours = random.Random(number)
    for row, column in ((row, column) for row in range(4) for column in range(4)):  # no two pictures look alike
        colour = tuple(colours.randrange(256) for _ in "rgb")
        drawing.rectangle((column * size[0] // 4, row * size[1] // 4, size[0], size[1]), fill=colour)
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    picture.save(path, format="PNG" if number in LYING_NAMES else None, exif=exif)


def draw_catalog(folder: Path) -> Path:
    """Write pictures and products.csv; the table's path."""
    rows = []
    for number in range(NUM_GOOD):
        code = ODD_CODES[number] if number < len(ODD_CODES) else f"P{number:04d}"
        picture = f"pictures/{number}.{'png' if number % 3 == 2 else 'jpg'}"
        draw_picture(folder / picture, number, (40 + number, 60), turn=6 if number == 3 else None)
        rows.append(
            [code, f"Größe {number} Bag", ["Bags", "Belts"][number % 2], f"{10 + number}.50", "EUR", "", picture]
        )
    picture = rows[0][-1]
    (folder / "pictures/broken.jpg").write_bytes((folder / picture).read_bytes()[:300])
    rows += [
        ["W1", "Missing picture", "Bags", "10", "EUR", "", "pictures/none.jpg"],
        ["W2", "Broken picture", "Bags", "10", "EUR", "", "pictures/broken.jpg"],
        ["W3", "No price", "Bags", "ten", "EUR", "", picture],
        ["P0010", "Code seen before", "Bags", "10", "EUR", "", picture],
        ["W5", "", "Bags", "10", "EUR", "", picture],
    ]
    with open(folder / "products.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([COLUMNS, *rows])
    return folder / "products.csv"


@pytest.fixture(scope="session")
def catalog(tmp_path_factory) -> CatalogOptions:
    table = draw_catalog(tmp_path_factory.mktemp("catalog"))
    return CatalogOptions(table=str(table), heldout_share=0.3, max_reject_share=0.5)


@pytest.fixture(scope="session")
def made(tmp_path_factory, catalog) -> ShardSummary:
    """Shards of five samples each, made by two workers. Tests don't touch them; who damages works on a copy."""
    folder = tmp_path_factory.mktemp("made") / "shards"
    return make_shards(catalog, ShardOptions(folder=str(folder), samples_per_shard=5, workers=2))


@pytest.fixture(scope="session")
def good_rows(catalog) -> dict[str, dict[str, str]]:
    """The 19 rows without a fault, by product code, as the csv module reads them."""
    with open(catalog.table, encoding="utf-8") as handle:
        return {row["product_code"]: row for row in islice(csv.DictReader(handle), NUM_GOOD)}


@pytest.fixture
def damaged_copy(made, tmp_path) -> Path:
    """A copy of the made shards that a test may damage."""
    return Path(shutil.copytree(made.folder, tmp_path / "shards"))
