"""Each YAML block of docs/own-data.md reads a small export of its kind, and these products come out."""

import io
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from phi3v_dist.catalog.checks import Product
from phi3v_dist.catalog.product_file import ProductFile, write_product_file
from phi3v_dist.catalog.rules import RULES
from phi3v_dist.config.loading import load_config
from phi3v_dist.config.options import CatalogOptions

DOCUMENT = Path(__file__).parents[2] / "docs/own-data.md"
EXPORTS = Path(__file__).parent / "exports"
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n.*?^```yaml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S))
SHOPIFY = "https://cdn.shopify.com/s/files/1/0001/0002/files"
WOO = "https://shop.example/wp-content/uploads/2024/01"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shops' exports, and the tables of the other sections as their programs write them."""
    shutil.copytree(EXPORTS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "products.csv").write_text(
        "sku;name;kind;cost;picture;second_picture\n"
        "00042;Seidenschal;Schals;1.299,00 €;a.jpg;b.jpg\n"
        "7;Hut;Hüte;95;c.jpg;\n",
        encoding="utf-8-sig",
    )
    rows = {
        "title": ["Scarf", "Hat"],
        "category": ["Scarves", "Hats"],
        "price": [1290.0, 95.5],
        "currency": ["EUR"] * 2,
    }
    rows |= {"brand": ["Acme", None], "text": ["Silk.", "Felt."], "images": [[png(), b"other"], [png()]]}
    pq.write_table(pa.table({"sku": [42.0, 7.0]} | rows), tmp_path / "products.parquet")
    told = {"id": ["00042"], "name": ["Scarf"], "category": ["Scarves"], "price": [95], "currency": ["EUR"]}
    kinds = {name: datasets.Value("int32" if name == "price" else "string") for name in told}
    pictures = {"image": [{"bytes": png(), "path": "a.png"}]}
    features = datasets.Features(kinds | {"image": datasets.Image()})
    datasets.Dataset.from_dict(told | pictures, features=features).save_to_disk(tmp_path / "somebody/products")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(section: str, folder: Path) -> tuple[list[Product], list[str]]:
    """Products, and the reasons of rejects, of a section's recipe."""
    (folder / "recipe.yaml").write_text(SECTIONS[section], encoding="utf-8")
    options: CatalogOptions = load_config(folder / "recipe.yaml").config.catalog
    write_product_file(folder / "products", options)
    found = ProductFile(folder / "products", options)
    return found.products(np.arange(len(found))), found.rejects()["reason"].to_pylist()


def told(product: Product) -> tuple[Any, ...]:
    return product.code, product.title, product.category, product.price, product.currency, product.further


def pictures(product: Product) -> list[str]:
    return list(map(str, product.pictures))


def test_a_csv_file(folder: Path) -> None:
    (scarf, hat), rejects = read("A CSV file", folder)
    assert rejects == []
    assert told(scarf) == ("00042", "Seidenschal", "Schals", 1299.0, "EUR", {})
    assert pictures(scarf) == ["pictures/a.jpg", "pictures/b.jpg"]
    assert (told(hat), pictures(hat)) == (("7", "Hut", "Hüte", 95.0, "EUR", {}), ["pictures/c.jpg"])


def test_parquet_with_bytes(folder: Path) -> None:
    (scarf, hat), rejects = read("Parquet, with pictures as paths or bytes", folder)
    assert rejects == []
    assert told(scarf) == ("42", "Scarf", "Scarves", 1290.0, "EUR", {"brand": "Acme", "description": "Silk."})
    assert [picture.read() for picture in scarf.pictures] == [png(), b"other"]
    assert told(hat)[-1] == {"brand": "", "description": "Felt."}


def test_a_data_set(folder: Path) -> None:
    ((scarf,), rejects) = read("A Hugging Face data set", folder)
    assert rejects == []
    assert told(scarf) == ("00042", "Scarf", "Scarves", 95.0, "EUR", {})
    assert [picture.read() for picture in scarf.pictures] == [png()]


def test_shopify(folder: Path) -> None:
    (shirt, hat), rejects = read("Shopify", folder)
    assert rejects == []
    further = {"brand": "Harbour Mill", "description": "Light & airy. Washed linen"}
    assert told(shirt) == ("linen-shirt", "Linen Shirt", "Shirts & Tops", 79.0, "USD", further)
    assert pictures(shirt) == [f"{SHOPIFY}/shirt_{side}.jpg?v=1700000001" for side in ("front", "back", "detail")]
    assert told(hat)[:4] == ("felt-hat", 'Felt Hat, "Rider"', "Hats", 120.0)
    assert pictures(hat) == [f"{SHOPIFY}/hat.png?v=1700000002"]


def test_woocommerce(folder: Path) -> None:
    (hoodie, cap), rejects = read("WooCommerce", folder)
    assert rejects == []
    described = {"description": "Soft fleece inside. Two pockets."}
    assert told(hoodie) == ("woo-hoodie", "Hoodie", "Hoodies", 39.0, "EUR", described)
    assert pictures(hoodie) == [f"{WOO}/hoodie{side}.jpg" for side in ("", "-back", "-blue")]
    assert told(cap)[:4] == ("woo-cap", "Cap & Band", "Caps", 16.5)


def test_magento(folder: Path) -> None:
    (bag, watch), rejects = read("Magento 2, Adobe Commerce", folder)
    assert rejects == []
    described = {"description": "Room for a weekend."}
    assert told(bag) == ("24-MB01", "Joust Duffle Bag", "Bags", 34.0, "EUR", described)
    media = "/data/magento/pub/media/catalog/product"
    assert pictures(bag) == [f"{media}/m/b/mb01-blue-0.jpg", f"{media}/m/b/mb01-blue-1.jpg"]
    assert told(watch)[:4] == ("0012", "Dash Digital Watch", "Watches", 92.0)
    assert pictures(watch) == [f"{media}/w/g/wg02-bk-0.jpg"]


def test_every_block_is_tried_and_has_a_short_column_map() -> None:
    tried = set(re.findall(r'read\("([^"]+)"', Path(__file__).read_text(encoding="utf-8")))
    assert tried == set(SECTIONS)
    assert DOCUMENT.read_text(encoding="utf-8").count("```yaml") == len(SECTIONS) >= 6
    for block in SECTIONS.values():
        assert len(block.splitlines()) <= 15
        assert yaml.safe_load(block).keys() == {"catalog"}


def test_every_rule_is_documented() -> None:
    assert all(f"`{name}`" in DOCUMENT.read_text(encoding="utf-8") for name in RULES)
