"""Every row becomes a product or a reject with the right reason; pictures are judged by their bytes."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phi3v_dist.catalog.checks import Product, Reject, check_pictures, check_rows
from phi3v_dist.catalog.pictures import Picture
from phi3v_dist.catalog.tables import RawRow
from phi3v_dist.config.options import CatalogOptions

OPTIONS = CatalogOptions(table="shop/products.csv", max_text_characters=20, max_further_characters=30)
GOOD = {
    "row": 2,
    "code": "1",
    "title": "Red Tie",
    "category": "TIES",
    "price": "95.50",
    "currency": "EUR",
    "pictures": ("1.jpg",),
}


def checked(*changes: dict, options: CatalogOptions = OPTIONS) -> tuple[list[Product], list[Reject]]:
    rows = [
        RawRow(**(GOOD | {"row": number, "code": str(number)} | change)) for number, change in enumerate(changes, 2)
    ]
    return check_rows(rows, options)


def test_a_good_row_becomes_a_product() -> None:
    products, rejects = checked({})
    assert products == [Product(2, "2", "Red Tie", "TIES", 95.5, "EUR", (Picture(Path("shop/1.jpg")),))]
    assert rejects == []


@pytest.mark.parametrize(
    ("change", "reason", "value"),
    [
        ({"fits": False}, "row: other number of cells than the header", "3 | Red Tie | TIES"),
        ({"code": ""}, "code: empty", ""),
        ({"title": ""}, "title: empty", ""),
        ({"category": ""}, "category: empty", ""),
        ({"title": "x" * 21}, "title: too long", "x" * 21),
        ({"title": "Red\x00Tie"}, "title: control characters", "Red\x00Tie"),
        ({"category": "T\nIES"}, "category: control characters", "T\nIES"),
        *(({"price": bad}, "price: not a number", bad) for bad in ("n/a", "", "1,5", "1_0", "inf", "nan", "٣")),
        ({"price": "9" * 400}, "price: not a number", "9" * 200),
        *(({"price": bad}, "price: not above zero", bad) for bad in ("0", "-3", "0.00")),
        ({"currency": "USD"}, "currency: other than the catalogue's", "USD, expected EUR"),
        ({"title": "M\ufffdtze"}, "title: broken characters", "M\ufffdtze"),
        ({"further": {"brand": "B" * 31}}, "further.brand: too long", "B" * 31),
        ({"further": {"brand": "A\x07"}}, "further.brand: control characters", "A\x07"),
        ({"pictures": ()}, "picture: missing", ""),
        ({"pictures": ("1.jpg", "2\0.jpg")}, "picture: missing", "2\0.jpg"),
    ],
)
def test_a_wrong_row_is_rejected_with_reason_and_value(change: dict, reason: str, value: str) -> None:
    products, rejects = checked({}, change, {})
    assert [product.row for product in products] == [2, 4]
    assert rejects == [Reject("shop/products.csv", 3, change.get("code", "3"), reason, value)]


def test_the_first_good_row_of_a_code_stays() -> None:
    products, rejects = checked({"code": "a", "price": "n/a"}, {"code": "a"}, {"code": "a"})
    assert [product.row for product in products] == [3]
    assert [(reject.row, reject.reason) for reject in rejects] == [(2, "price: not a number"), (4, "code: duplicate")]
    assert "row 3" in rejects[1].value


def test_the_currency_is_the_most_frequent_unless_named() -> None:
    rows = [{"currency": "USD"}, {"currency": "EUR"}, {"currency": "USD"}, {"currency": ""}]
    assert [product.row for product in checked(*rows)[0]] == [2, 4]
    named = OPTIONS.model_copy(update={"currency": "EUR"})
    assert [product.row for product in checked(*rows, options=named)[0]] == [3]
    assert checked({"currency": ""})[1][0].reason == "currency: other than the catalogue's"


def test_picture_paths_start_at_the_image_root_and_may_be_absolute() -> None:
    rooted = OPTIONS.model_copy(update={"image_root": "pictures"})
    products, _ = checked({}, {"pictures": ("/data/1.jpg", "HTTPS://x.invalid/2.jpg")}, options=rooted)
    assert [list(map(str, product.pictures)) for product in products] == [
        ["pictures/1.jpg"],
        ["/data/1.jpg", "HTTPS://x.invalid/2.jpg"],
    ]


def test_of_too_many_pictures_the_first_are_kept() -> None:
    few = OPTIONS.model_copy(update={"max_pictures": 2})
    ((product,), _) = checked({"pictures": ("1.jpg", b"bytes", "3.jpg")}, options=few)
    assert product.pictures == (Picture(Path("shop/1.jpg")), Picture(b"bytes"))


def test_further_texts_may_be_empty_and_have_lines() -> None:
    further = {"brand": "", "description": "Silk.\r\n\tLined."}
    assert checked({"further": further})[0][0].further == further


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "code": st.sampled_from(["a", "b", ""]),
        "title": st.sampled_from(["Tie", "", "\t"]),
        "price": st.sampled_from(["1", "0", "x"]),
        "currency": st.sampled_from(["EUR", "USD", ""]),
        "fits": st.booleans(),
    },
)


@given(st.lists(CHANGES, max_size=12))
def test_every_row_is_a_product_or_a_reject_never_both(changes: list[dict]) -> None:
    products, rejects = checked(*changes)
    counts = Counter(found.row for found in (*products, *rejects))
    assert counts == Counter(range(2, len(changes) + 2))
    assert len({product.code for product in products}) == len(products)


def with_pictures(*sources: Path | str | bytes) -> Product:
    return Product(7, "1", "Red Tie", "TIES", 1.0, "EUR", tuple(map(Picture, sources)))


def picture_reason(tmp_path: Path, data: bytes | None, options: CatalogOptions = OPTIONS) -> str | None:
    path = tmp_path / "1.png"
    if data is not None:
        path.write_bytes(data)
    reject = check_pictures(with_pictures(path), options)
    if reject is None:
        return None
    assert (reject.row, reject.product_code) == (7, "1")
    assert str(path) in reject.value
    return reject.reason


def png(tmp_path: Path, width: int, height: int) -> bytes:
    path = tmp_path / "drawn.png"
    Image.effect_noise((width, height), 50).save(path)
    return path.read_bytes()


def test_pictures_are_judged(tmp_path: Path) -> None:
    good = png(tmp_path, 16, 40)
    assert picture_reason(tmp_path, None) == "picture: missing"
    assert picture_reason(tmp_path, good) is None
    assert picture_reason(tmp_path, good[:-100]) == "picture: truncated"
    assert picture_reason(tmp_path, b"<html>") == "picture: not a picture"
    assert picture_reason(tmp_path, b"") == "picture: empty"
    assert picture_reason(tmp_path, png(tmp_path, 15, 40)) == "picture: too small"
    small = OPTIONS.model_copy(update={"max_image_megapixels": 0.0005})
    assert picture_reason(tmp_path, good, small) == "picture: too large"


def test_a_folder_in_the_place_of_a_picture_is_a_missing_picture(tmp_path: Path) -> None:
    (tmp_path / "1.png").mkdir()
    assert picture_reason(tmp_path, None) == "picture: missing"


def test_the_first_wrong_picture_of_several_is_named(tmp_path: Path) -> None:
    good = png(tmp_path, 16, 40)
    assert check_pictures(with_pictures(good, tmp_path / "drawn.png"), OPTIONS) is None
    url = "https://x.invalid/1.jpg"
    for wrong, reason, value in (
        (url, "picture: not fetched", url),
        (good[:-100], "picture: truncated", f"{len(good) - 100} bytes in the table"),
        (tmp_path / "none.png", "picture: missing", str(tmp_path / "none.png")),
    ):
        reject = check_pictures(with_pictures(good, wrong, b"<html>"), OPTIONS)
        assert reject == Reject("shop/products.csv", 7, "1", reason, value)
