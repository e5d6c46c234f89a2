"""Held-out pictures beside truth and answer, as small tiles inside a page.

Enters: lines of ``predictions.jsonl`` and the shards that hold the pictures. Leaves: tiles with a thumbnail as data
URI and a mark per part of the answer. Tiles are taken evenly, the right and the wrong as they come.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phi3v_dist.documents.prompt import format_price
from phi3v_dist.images import ImageError
from phi3v_dist.reports.thumbnails import thumbnail
from phi3v_dist.shards.read import DamagedSample, ShardReader

_RIGHT_PRICE_ERROR = 0.2  # a price at most this far off is marked as right


@dataclass(frozen=True)
class Part:
    """Title, category or price of a tile: what is true, what was answered, and whether that is right."""

    name: str
    truth: str
    answer: str
    right: bool


@dataclass(frozen=True)
class Tile:
    """A picture (data URI, None when it can't be shown), its parts, and the raw text where it did not parse."""

    product_code: str
    picture: str | None
    parts: tuple[Part, ...]
    unparsed: str | None


def tiles_of(predictions: Sequence[dict[str, Any]], reader: ShardReader | None, most: int) -> list[Tile]:
    """Return at most ``most`` tiles, evenly over the predictions. Without a reader they have no pictures."""
    count = min(most, len(predictions))
    return [_tile(predictions[place * len(predictions) // count], reader) for place in range(count)]


def _tile(prediction: dict[str, Any], reader: ShardReader | None) -> Tile:
    parsed = prediction["parsed"]
    return Tile(
        product_code=prediction["product_code"],
        picture=_thumbnail(reader, prediction["sample"]) if reader else None,
        parts=_parts(prediction, parsed) if parsed else (),
        unparsed=None if parsed else prediction["answer"],
    )


def _parts(truth: dict[str, Any], parsed: dict[str, Any]) -> tuple[Part, ...]:
    texts = [Part(name, truth[name], parsed[name], truth[name] == parsed[name]) for name in ("title", "category")]
    error = abs(parsed["price"] - truth["price"]) / truth["price"]
    answer = f"{format_price(parsed['price'])} ({error:.1%} off)" if error else format_price(parsed["price"])
    return (*texts, Part("price", format_price(truth["price"]), answer, error <= _RIGHT_PRICE_ERROR))


def _thumbnail(reader: ShardReader, number: int) -> str | None:
    try:
        return thumbnail(reader.sample(number).images[0])
    except (DamagedSample, ImageError):
        return None
