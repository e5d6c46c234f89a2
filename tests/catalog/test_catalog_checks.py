"""A row becomes a product or a reject with the right reason."""

from functools import partial
from pathlib import Path

import pytest

from phi3v_dist.catalog.checks import Product, Reject, check_row
from phi3v_dist.catalog.fetched import FetchedPictures
from phi3v_dist.catalog.pictures import Picture, picture_of
from phi3v_dist.catalog.tables import RawRow
from phi3v_dist.config.options import CatalogOptions, PolicyOptions

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
    root = Path("shop" if options.image_root is None else options.image_root)
    verdicts = [
        check_row(row, options, partial(picture_of, root=root, fetched=FetchedPictures("none"))) for row in rows
    ]
    products = [verdict for verdict in verdicts if isinstance(verdict, Product)]
    return products, [verdict for verdict in verdicts if isinstance(verdict, Reject)]


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


REPAIR = OPTIONS.model_copy(
    update={"policy": PolicyOptions(control_characters="repair", long_text="repair"), "max_text_characters": 10}
)


@pytest.mark.parametrize(
    ("title", "repaired"),
    [
        ("Red\x00Tie", "Red Tie"),
        ("Red\r\n\tTie", "Red Tie"),
        ("Red silk tie", "Red silk"),
        ("Redsilktie of silk", "Redsilktie"),
        ("Redsilktiefromsilk", "Redsilktie"),
        ("Red Tie", "Red Tie"),
    ],
)
def test_a_policy_repairs_texts(title: str, repaired: str) -> None:
    ((product,), rejects) = checked({"title": title}, options=REPAIR)
    assert (product.title, rejects) == (repaired, [])


def test_what_cannot_be_repaired_is_rejected_and_codes_never_are() -> None:
    _, rejects = checked({"title": "\x00\x01"}, {"code": "a\x00b"}, {"code": "x" * 11}, options=REPAIR)
    assert [reject.reason for reject in rejects] == ["title: empty", "code: control characters", "code: too long"]


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
