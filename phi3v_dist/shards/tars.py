"""A shelf of products as a tar file, written whole, with its rows of the index.

Enters: products, what is known of their pictures. Leaves: one WebDataset tar file, its rows of the index and its entry
in the manifest. A picture must still be the one that was checked; its bytes are kept as they came unless the policy
has it saved anew.
"""

import hashlib
import json
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
import xxhash

from phi3v_dist.catalog.checks import Product
from phi3v_dist.catalog.picture_checks import GoodPicture, saved_anew
from phi3v_dist.catalog.pictures import NotFetched, Picture
from phi3v_dist.catalog.product_file import ProductFile
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError
from phi3v_dist.files import atomic_path
from phi3v_dist.images import ImageError, read_header
from phi3v_dist.shards.index import SHARD_SCHEMA, member_columns
from phi3v_dist.shards.placed import Placed
from phi3v_dist.shards.placing import Shelf
from phi3v_dist.shards.staging import Staging
from phi3v_dist.shards.tar_stream import TarStream

# A tar header has room for 100 bytes of name; longer ones need an extra header that some readers don't know.
_MAX_KEY_BYTES = 80
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
# What JSON and index tell of a product, and where it stands in ``Product``.
_TOLD = {name: name for name in ("category", "currency", "further", "price", "title")} | {"product_code": "code"}


class _Written(NamedTuple):
    """A picture in the tar file; ``size``: width and height, pixels after the EXIF turn."""

    content: bytes
    suffix: str
    size: tuple[int, int]


def write_shelf(staging: Staging, shelf: Shelf, products: ProductFile, placed: Placed, catalog: CatalogOptions) -> None:
    """Write a shelf's tar file, durable and whole, and mark it as finished.

    Raises ``CatalogError`` for a picture that is not the one that was checked.
    """
    numbers = placed.order[shelf.split][shelf.start : shelf.stop]
    shared = {"shard": shelf.tar, "split": shelf.split}
    rows, kinds = [], {"json"}
    with atomic_path(staging.shards / shelf.tar) as temporary, open(temporary, "wb") as file:
        tar = TarStream(file)
        for product, good in zip(products.products(numbers), map(placed.pictures_of, numbers), strict=True):
            pictures = [_picture(product, told, catalog) for told in good]
            rows.append(_write(tar, product, pictures) | shared)
            kinds.update(_kinds(pictures))
        facts = {"path": shelf.tar, "xxh3_128": tar.end(), "bytes": tar.num_bytes}
    facts |= {"split": shelf.split, "samples": len(numbers), "members": sorted(kinds)}
    staging.finish(shelf.tar, pa.Table.from_pylist(rows, schema=SHARD_SCHEMA), facts)


def key_of(code: str) -> str:
    """The product's name in a tar file: different for different codes, ASCII, without dots (a key ends at a dot)."""
    key = quote(code, safe="").replace(".", "%2E")
    return key if len(key) <= _MAX_KEY_BYTES else f"{key[:40]}-{hashlib.sha256(code.encode()).hexdigest()[:32]}"


def _picture(product: Product, good: GoodPicture, catalog: CatalogOptions) -> _Written:
    """The bytes to be written, and what they are."""
    picture = product.pictures[good.number]
    try:
        content = _content(picture, good)
        if not good.save_anew:
            return _Written(content, good.suffix, (good.width, good.height))
        content = saved_anew(content, catalog)
        header = read_header(content)
        return _Written(content, header.suffix, header.size)
    except (OSError, NotFetched, ImageError):
        raise CatalogError(
            "the picture is not the one that was checked a moment ago",
            where=f"row {product.row}",
            value=str(picture),
            mend="Leave the pictures alone while shards are made, then start again.",
        ) from None


def _content(picture: Picture, good: GoodPicture) -> bytes:
    """A picture's bytes. Raises ``ImageError`` where they aren't those that were checked."""
    content = picture.read()
    same = good.xxh3 is None or xxhash.xxh3_128_digest(content) == good.xxh3
    if not same or len(content) != good.num_bytes:
        raise ImageError("another")
    return content


def _kinds(pictures: list[_Written]) -> list[str]:
    """What pictures are called in a tar file, behind their key."""
    return [f"{number:02d}.{picture.suffix}" for number, picture in enumerate(pictures)]


def _write(tar: TarStream, product: Product, pictures: list[_Written]) -> dict[str, Any]:
    """Append a product's members; its row of the index."""
    key = key_of(product.code)
    told = {name: getattr(product, field) for name, field in _TOLD.items()}
    text = _JSON.encode(told).encode()
    contents = [picture.content for picture in pictures]
    offsets = [
        tar.add(f"{key}.{kind}", content)
        for kind, content in zip((*_kinds(pictures), "json"), (*contents, text), strict=True)
    ]
    places = member_columns([offsets[-1], *offsets[:-1]], [text, *contents], [picture.size for picture in pictures])
    return told | places | {"further": _JSON.encode(product.further), "key": key}
