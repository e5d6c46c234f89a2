"""From raw rows to checked products, and a reject with a reason for each row that isn't one.

Enters: raw rows, then pictures. Leaves: ``Product`` or ``Reject`` for every row, never neither and never both. The
checks of the table are cheap and happen here and now; the check of a picture decodes it, takes milliseconds, and is a
function of its own that worker processes call.

Reasons have the form ``column: fault``, and are stable, so that rejects can be counted and joined.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phi3v_dist.catalog.pictures import NotFetched, Picture, picture_of
from phi3v_dist.catalog.tables import RawRow
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.images import ImageError, open_image

_PRICE = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")  # float() would take 1_000, inf and nan too
_LINE_ENDS = str.maketrans("\n\r\t", "   ")  # a description may have them, a title may not
_LONGEST_VALUE = 200  # characters of a wrong value that a reject keeps


@dataclass(frozen=True)
class Product:
    """A row that passed the checks of the table. ``row``: as ``RawRow`` counts. ``price`` is above 0.

    ``pictures``: at least one. ``further``: the same names for all products, empty where a product lacks the text.
    """

    row: int
    code: str
    title: str
    category: str
    price: float
    currency: str
    pictures: tuple[Picture, ...]
    further: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reject:
    """A row that is no product: ``reason`` as ``column: fault``, ``value`` what was found."""

    file: str
    row: int
    product_code: str
    reason: str
    value: str


def check_rows(rows: Sequence[RawRow], options: CatalogOptions) -> tuple[list[Product], list[Reject]]:
    """Check the table. Of several rows with one code the first that passes stays."""
    currency = options.currency or _most_frequent(row.currency for row in rows)
    root = Path(options.table).parent if options.image_root is None else Path(options.image_root)
    products: dict[str, Product] = {}
    rejects: list[Reject] = []
    for row in rows:
        verdict = _fault_of(row, currency, options)
        if verdict is None and row.code in products:
            verdict = "code: duplicate", f"{row.code}, also in row {products[row.code].row}"
        if verdict is not None:
            rejects.append(_reject(options, row.row, row.code, *verdict))
        else:
            pictures = tuple(picture_of(cell, root) for cell in row.pictures[: options.max_pictures])
            facts = (row.row, row.code, row.title, row.category, float(row.price), row.currency)
            products[row.code] = Product(*facts, pictures=pictures, further=row.further)
    return list(products.values()), rejects


def check_pictures(product: Product, options: CatalogOptions) -> Reject | None:
    """Decode a product's pictures. Returns a reject for the first that is wrong, or None."""
    for picture in product.pictures:
        if (fault := _picture_fault_of(picture, options)) is not None:
            return _reject(options, product.row, product.code, f"picture: {fault[0]}", fault[1])
    return None


def _picture_fault_of(picture: Picture, options: CatalogOptions) -> tuple[str, str] | None:
    try:
        opened = open_image(picture.read(), max_megapixels=options.max_image_megapixels)
    except NotFetched:
        return "not fetched", str(picture)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return "missing", str(picture)
    except OSError as error:
        return "unreadable", f"{picture}: {error.strerror}"
    except ImageError as error:
        return error.reason, str(picture)
    if min(opened.size) < options.min_image_side:
        return "too small", f"{picture}: {opened.width} x {opened.height}"
    return None


def _fault_of(row: RawRow, currency: str, options: CatalogOptions) -> tuple[str, str] | None:
    """Reason and value of the first fault of a row."""
    if not row.fits:
        return "row: other number of cells than the header", " | ".join((row.code, row.title, row.category))
    return _fault_of_texts(row, options) or _fault_of_price(row, currency) or _fault_of_pictures(row)


def _fault_of_texts(row: RawRow, options: CatalogOptions) -> tuple[str, str] | None:
    for column, text in (("code", row.code), ("title", row.title), ("category", row.category)):
        if (fault := _text_fault_of(text, options.max_text_characters)) is not None:
            return f"{column}: {fault}", text
    for name, text in row.further.items():
        lines = text.translate(_LINE_ENDS)
        if text and (fault := _text_fault_of(lines, options.max_further_characters)) is not None:
            return f"further.{name}: {fault}", text
    return None


def _fault_of_price(row: RawRow, currency: str) -> tuple[str, str] | None:
    if (fault := _price_fault_of(row.price)) is not None:
        return f"price: {fault}", row.price
    if row.currency != currency or not currency:
        return "currency: other than the catalogue's", f"{row.currency}, expected {currency}"
    return None


def _fault_of_pictures(row: RawRow) -> tuple[str, str] | None:
    if not row.pictures:
        return "picture: missing", ""
    wrong = (picture for picture in row.pictures if isinstance(picture, str) and "\0" in picture)
    return next((("picture: missing", picture) for picture in wrong), None)


def _text_fault_of(text: str, most_characters: int) -> str | None:
    if not text:
        return "empty"
    if len(text) > most_characters:
        return "too long"
    if not text.isprintable() and any(unicodedata.category(character) == "Cc" for character in text):
        return "control characters"
    return "broken characters" if "\ufffd" in text else None  # another encoding was read as UTF-8, here or earlier


def _price_fault_of(text: str) -> str | None:
    if not _PRICE.fullmatch(text) or math.isinf(float(text)):
        return "not a number"
    return None if float(text) > 0 else "not above zero"


def _most_frequent(currencies: Iterable[str]) -> str:
    counts = Counter(filter(None, currencies))
    return counts.most_common(1)[0][0] if counts else ""


def _reject(options: CatalogOptions, row: int, code: str, reason: str, value: str) -> Reject:
    return Reject(options.table, row, code, reason, value[:_LONGEST_VALUE])
