"""A shelf of products as a tar file, written whole and read back for the index.

Enters: products, what is known of their pictures. Leaves: one WebDataset tar file, its rows of the index and its entry
in the manifest. A picture must still be the one that was checked; its bytes are kept as they came unless the policy
has it saved anew.
"""

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from phi3v_dist.catalog.checks import Product
from phi3v_dist.catalog.picture_checks import GoodPicture, saved_anew
from phi3v_dist.catalog.pictures import NotFetched, Picture
from phi3v_dist.catalog.product_file import ProductFile
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError
from phi3v_dist.files import atomic_path
from phi3v_dist.images import image_suffix
from phi3v_dist.shards.index import index_shard
from phi3v_dist.shards.manifest import describe_file
from phi3v_dist.shards.placed import Placed
from phi3v_dist.shards.placing import Shelf
from phi3v_dist.shards.staging import Staging

# A tar header has room for 100 bytes of name; longer ones need an extra header that some readers don't know.
_MAX_KEY_BYTES = 80


def write_shelf(staging: Staging, shelf: Shelf, products: ProductFile, placed: Placed, catalog: CatalogOptions) -> None:
    """Write a shelf's tar file, durable and whole, and mark it as finished.

    Raises ``CatalogError`` for a picture that is not the one that was checked.
    """
    numbers = placed.order[shelf.split][shelf.start : shelf.stop]
    samples = zip(products.products(numbers), map(placed.pictures_of, numbers), strict=True)
    kinds = _write(staging.shards / shelf.tar, (_sample(*sample, catalog) for sample in samples))
    rows = index_shard(staging.shards, shelf.tar, shelf.split)
    assert rows.num_rows == len(numbers), f"{shelf.tar}: {rows.num_rows} samples read back of {len(numbers)}"
    facts = {"split": shelf.split, "samples": len(numbers), "members": kinds}
    staging.finish(shelf.tar, rows, describe_file(staging.shards, shelf.tar) | facts)


def key_of(code: str) -> str:
    """The product's name in a tar file: different for different codes, ASCII, without dots (a key ends at a dot)."""
    key = quote(code, safe="").replace(".", "%2E")
    return key if len(key) <= _MAX_KEY_BYTES else f"{key[:40]}-{hashlib.sha256(code.encode()).hexdigest()[:32]}"


def _write(path: Path, samples: Any) -> list[str]:
    """The kinds of members written. ``mtime=0``: a clock would change the bytes."""
    from webdataset.writer import TarWriter  # imports torch, which the other steps don't need

    kinds: set[str] = set()
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as stream,
        TarWriter(stream, encoder=False, mtime=0) as tar,
    ):
        for sample in samples:
            kinds |= sample.keys() - {"__key__"}
            tar.write(sample)
    return sorted(kinds)


def _sample(product: Product, pictures: list[GoodPicture], catalog: CatalogOptions) -> dict[str, Any]:
    told = {
        "category": product.category,
        "currency": product.currency,
        "further": product.further,
        "price": float(product.price),
        "product_code": product.code,
        "title": product.title,
    }
    members = {}
    for number, good in enumerate(pictures):
        content = _content(product.pictures[good.number], good, product.row)
        if good.save_anew:
            content = saved_anew(content, catalog)
        members[f"{number:02d}.{image_suffix(content)}"] = content
    members["json"] = json.dumps(told, sort_keys=True, ensure_ascii=False).encode()
    return {"__key__": key_of(product.code), **members}


def _content(picture: Picture, good: GoodPicture, row: int) -> bytes:
    try:
        content = picture.read()
    except (OSError, NotFetched):
        content = b""
    if hashlib.sha256(content).digest() != good.sha256:
        raise CatalogError(
            "the picture is not the one that was checked a moment ago",
            where=f"row {row}",
            value=str(picture),
            mend="Leave the pictures alone while shards are made, then start again.",
        )
    return content
