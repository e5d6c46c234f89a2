"""Products on disk: each row is a product or a reject; the first of each code, of one currency, in their order."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist.catalog import product_file
from phi3v_dist.catalog.pictures import Picture
from phi3v_dist.catalog.product_file import ProductFile, write_product_file
from phi3v_dist.catalog.split import code_digest
from phi3v_dist.config.options import CatalogOptions, PolicyOptions
from phi3v_dist.errors import CatalogError

COLUMNS = ["product_code", "title", "category3_code", "full_price", "currency_code", "local_image_path"]
GOOD = ["a", "Red Tie", "TIES", "95.50", "EUR", "1.jpg"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shop")


def told(
    shop: Path, *rows: list[str], earlier: tuple[str, ...] = (), earlier_currency: str = "", **options: object
) -> ProductFile:
    with open(shop / "products.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([COLUMNS, *rows])
    catalog = CatalogOptions(table=str(shop / "products.csv"), **options)
    folder = shop / "products"
    write_product_file(folder, catalog, earlier, earlier_currency)
    assert ProductFile.is_there(folder)
    return ProductFile(folder, catalog)


def row(**changes: str) -> list[str]:
    return list((dict(zip(COLUMNS, GOOD, strict=True)) | changes).values())


def rejects(products: ProductFile) -> list[tuple[int, str, str]]:
    return [(found["row"], found["reason"], found["value"]) for found in products.rejects().to_pylist()]


def test_products_come_back_in_the_order_asked_for(shop) -> None:
    products = told(shop, row(), row(product_code="b", title="Größe"), row(product_code="c"))
    assert (len(products), products.num_rows) == (3, 3)
    second, first = products.products([1, 0])
    assert (first.row, first.code, first.title, first.price, first.currency) == (2, "a", "Red Tie", 95.5, "EUR")
    assert (second.row, second.title) == (3, "Größe")
    assert first.pictures == (Picture(shop / "1.jpg"),)
    assert np.array_equal(products.digests, np.stack([code_digest(code) for code in "abc"]))


def test_the_first_good_row_of_a_code_stays(shop) -> None:
    products = told(shop, row(full_price="n/a"), row(), row())
    assert [product.row for product in products.products([0])] == [3]
    assert rejects(products) == [(2, "price: not a number", "n/a"), (4, "code: duplicate", "a, also in row 3")]


def test_a_code_of_an_earlier_delivery_is_a_duplicate(shop) -> None:
    products = told(shop, row(), row(product_code="b"), earlier=("x", "a"))
    assert [product.code for product in products.products([0])] == ["b"]
    assert rejects(products) == [(2, "code: duplicate", "a, also in an earlier delivery")]


def test_the_currency_is_the_most_frequent_unless_named_or_all_are_kept(shop) -> None:
    currencies = {"a": "USD", "b": "EUR", "c": "USD", "d": ""}
    rows = [row(product_code=code, currency_code=currency) for code, currency in currencies.items()]

    def codes(**options: object) -> list[str]:
        products = told(shop, *rows, **options)
        return [product.code for product in products.products(np.arange(len(products)))]

    assert codes() == ["a", "c"]
    assert codes(currency="EUR") == ["b"]
    assert codes(policy=PolicyOptions(other_currency="keep")) == ["a", "b", "c", "d"]
    assert rejects(told(shop, *rows))[0] == (3, "currency: other than the catalogue's", "EUR, expected USD")
    assert codes(currency="GBP") == []


def test_a_later_delivery_has_the_currency_of_the_earlier_ones(shop) -> None:
    rows = [row(currency_code="USD"), row(product_code="b", currency_code="USD"), row(product_code="c")]
    products = told(shop, *rows, earlier_currency="EUR")
    assert [product.code for product in products.products(np.arange(len(products)))] == ["c"]
    assert rejects(products)[0] == (2, "currency: other than the catalogue's", "USD, expected EUR")


def test_a_row_of_another_currency_does_not_shadow_a_later_one_of_its_code(shop) -> None:
    products = told(shop, row(currency_code="USD"), row(), row(product_code="b"))
    assert [product.row for product in products.products([0, 1])] == [3, 4]


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "product_code": st.sampled_from(["a", "b", ""]),
        "title": st.sampled_from(["Tie", "", "\x07"]),
        "full_price": st.sampled_from(["1", "0", "x"]),
        "currency_code": st.sampled_from(["EUR", "USD", ""]),
    },
)


@settings(max_examples=60)
@given(changes=st.lists(CHANGES, min_size=1, max_size=12))
def test_every_row_is_a_product_or_a_reject_never_both(shop, changes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product_file, "_ROWS_AT_A_TIME", 5)
        if all(change.get("currency_code") == "" for change in changes):
            with pytest.raises(CatalogError, match="no row has a currency"):
                told(shop, *(row(**change) for change in changes))
            return
        products = told(shop, *(row(**change) for change in changes))
    good = products.products(np.arange(len(products)))
    counts = Counter([product.row for product in good] + [found for found, *_ in rejects(products)])
    assert counts == Counter(range(2, len(changes) + 2))
    assert len({product.code for product in good}) == len(good)
    assert [product.row for product in good] == sorted(product.row for product in good)


def test_bytes_in_a_table_are_kept_beside_it(shop) -> None:
    cells = [[b"first", b"second picture"], [b"third"]]
    columns = dict(zip(COLUMNS, zip(*([*row(product_code=code)[:5], None] for code in "ab"), strict=True), strict=True))
    pq.write_table(pa.table(columns | {"local_image_path": cells}), shop / "bytes.parquet")
    catalog = CatalogOptions(table=str(shop / "bytes.parquet"))
    write_product_file(shop / "with bytes", catalog)
    products = ProductFile(shop / "with bytes", catalog).products([0, 1])
    assert [[picture.read() for picture in product.pictures] for product in products] == cells
    assert str(products[0].pictures[1]) == "14 bytes in the table"


def test_further_texts_and_urls_come_back(shop) -> None:
    told_row = dict(zip(COLUMNS, row(), strict=True)) | {"local_image_path": "https://x.invalid/1.jpg", "maker": "Acme"}
    (shop / "products.jsonl").write_text(json.dumps(told_row), encoding="utf-8")
    catalog = CatalogOptions(table=str(shop / "products.jsonl"), columns={"further": {"brand": "maker"}})
    write_product_file(shop / "further", catalog)
    (product,) = ProductFile(shop / "further", catalog).products([0])
    assert (product.further, product.pictures) == ({"brand": "Acme"}, (Picture("https://x.invalid/1.jpg"),))


def test_a_table_without_a_row_is_an_error(shop) -> None:
    with pytest.raises(CatalogError, match="has no row"):
        told(shop)
