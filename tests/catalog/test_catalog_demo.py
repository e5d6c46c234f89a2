"""The demo catalogue keeps what its title promises: what is said is seen, and the faults are where they should be."""

import csv
import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy
import pytest

from phi3v_dist.catalog.checks import Reject
from phi3v_dist.catalog.demo import (
    COLOURS,
    FAULT_EVERY,
    FAULTS,
    HEADER,
    KINDS,
    TRIM_AREA,
    draw_product,
    fault_of,
    make_demo_catalog,
    price_of,
    title_of,
)
from phi3v_dist.catalog.demo_shapes import SILHOUETTES, band_area_share
from phi3v_dist.catalog.picture_checks import check_pictures
from phi3v_dist.catalog.product_file import ProductFile, write_product_file
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError

PRODUCTS = 8 * FAULT_EVERY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog")
    assert make_demo_catalog(folder, PRODUCTS, seed=0)
    return folder


@pytest.fixture(scope="module")
def drawn() -> list:
    return [draw_product(0, number) for number in range(300)]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "products.csv", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_checks_find_each_fault_once_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    options = CatalogOptions(table=str(folder / "products.csv"))
    write_product_file(tmp_path, options)
    products = ProductFile(tmp_path, options)
    verdicts = [check_pictures(product, options) for product in products.products(numpy.arange(len(products)))]
    rejects = [(reject.row, reject.reason) for reject in verdicts if isinstance(reject, Reject)]
    rejects += [(reject["row"], reject["reason"]) for reject in products.rejects().to_pylist()]
    assert Counter(row - 2 for row, _ in rejects) == Counter(n for n in range(PRODUCTS) if fault_of(n))
    assert len({reason for _, reason in rejects}) == len(FAULTS) == 8


def test_the_table_has_the_columns_of_the_burberry_table(folder: Path) -> None:
    rows = rows_of(folder)
    assert tuple(rows[0]) == HEADER
    assert len(rows) == PRODUCTS
    suffixes = Counter(row["local_image_path"].rpartition(".")[2] for row in rows)
    assert suffixes["png"] / PRODUCTS == pytest.approx(0.3, abs=0.08)


def test_a_second_call_returns_at_once_and_other_parameters_draw_anew(tmp_path: Path) -> None:
    assert make_demo_catalog(tmp_path, 4, seed=0, workers=1)
    before = (tmp_path / "products.csv").stat().st_mtime_ns
    assert not make_demo_catalog(tmp_path, 4, seed=0, workers=1)
    assert (tmp_path / "products.csv").stat().st_mtime_ns == before
    old = rows_of(tmp_path)
    assert make_demo_catalog(tmp_path, 3, seed=0, workers=1)
    assert rows_of(tmp_path) == old[:3]  # a product depends on (seed, number) alone


def test_a_table_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("mine")
    with pytest.raises(CatalogError, match="of your own"):
        make_demo_catalog(tmp_path, 3, seed=0)
    assert (tmp_path / "products.csv").read_text() == "mine"


def test_a_product_is_the_same_in_every_process(folder: Path) -> None:
    _, price, picture = draw_product(0, 3)
    row = rows_of(folder)[3]
    assert str(price) == row["full_price"]
    assert picture.mode == "RGB"
    again = draw_product(0, 3)[2]
    assert again.tobytes() == picture.tobytes()


def test_frames_stay_within_their_limits(drawn: list) -> None:
    sizes = [picture.size for _, _, picture in drawn]
    assert min(map(min, sizes)) >= 150
    assert max(map(max, sizes)) <= 1400
    assert all(0.33 < width / height < 3.02 for width, height in sizes)
    usual = [max(size) for size in sizes if max(size) <= 620]
    assert len(usual) / len(sizes) > 0.95


def test_products_are_darker_than_their_background(drawn: list) -> None:
    for look, _, picture in drawn[:60]:
        grey = numpy.asarray(picture.convert("L"))
        assert grey[0, 0] > 230, look
        assert grey.min() < 150, look


def test_the_colour_of_the_title_is_the_darkest_on_the_picture(drawn: list) -> None:
    """By counting: the nearest palette colour to the product's pixels that are neither tint, trim nor background."""
    plain = [(look, picture) for look, _, picture in drawn if (look.pattern, look.trim) == ("plain", "none")]
    assert len(plain) > 10
    for look, picture in plain:
        pixels = numpy.asarray(picture).reshape(-1, 3).astype(int)
        product = pixels[pixels.min(axis=1) < 140]
        middle = numpy.median(product, axis=0)
        distance = {name: numpy.abs(middle - colour).sum() for name, colour in COLOURS.items()}
        assert min(distance, key=distance.get) == look.colour


@pytest.mark.parametrize("kind", KINDS)
def test_a_trim_covers_a_share_that_is_easy_to_see(kind: str) -> None:
    share = band_area_share(kind, KINDS[kind].trim_edge, TRIM_AREA)
    assert 0.25 <= share <= 0.45


def test_every_kind_has_a_silhouette_that_differs_grossly() -> None:
    assert SILHOUETTES.keys() == KINDS.keys()
    assert len(KINDS) >= 10
    aspects = sorted(kind.aspect for kind in KINDS.values())
    assert all(wide / slim > 1.15 for slim, wide in pairwise(aspects))


def test_titles_follow_from_looks(drawn: list) -> None:
    titles = {look: title_of(look) for look, _, _ in drawn}
    assert len(set(titles.values())) == len(titles)
    assert any(title.endswith("with Gold Trim") and " Striped " in title for title in titles.values())


def test_prices_can_be_seen_but_not_guessed() -> None:
    looks = [(look, price) for look, price, _ in (draw_product(1, number) for number in range(600))]

    def error(guesses: list[float]) -> float:
        return statistics.median(abs(guess - price) / price for guess, (_, price) in zip(guesses, looks, strict=True))

    middle = statistics.median(price for _, price in looks)
    by_kind = {kind: statistics.median(price for look, price in looks if look.kind == kind) for kind in KINDS}
    assert 0.6 < error([middle] * len(looks)) < 0.9
    assert 0.18 < error([by_kind[look.kind] for look, _ in looks]) < 0.27
    assert error([price_of(look) for look, _ in looks]) < 0.04
