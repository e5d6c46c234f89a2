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
from dataclasses import dataclass
from pathlib import Path

from phi3v_dist.catalog.tables import RawRow
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.images import ImageError, open_image

_PRICE = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")  # float() would take 1_000, inf and nan too
_LONGEST_VALUE = 200  # characters of a wrong value that a reject keeps


@dataclass(frozen=True)
class Product:
    """A row that passed the checks of the table. ``row``: its line in the file. ``price`` is above 0."""

    row: int
    code: str
    title: str
    category: str
    price: float
    currency: str
    image_path: Path


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
            path = root / row.image_path
            facts = (row.row, row.code, row.title, row.category, float(row.price), row.currency)
            products[row.code] = Product(*facts, image_path=path)
    return list(products.values()), rejects


def check_picture(product: Product, options: CatalogOptions) -> Reject | None:
    """Decode a product's picture. Returns a reject, or None if the picture is good."""
    verdict = _picture_fault_of(product.image_path, options)
    return None if verdict is None else _reject(options, product.row, product.code, *verdict)


def _picture_fault_of(path: Path, options: CatalogOptions) -> tuple[str, str] | None:
    try:
        picture = open_image(path.read_bytes(), max_megapixels=options.max_image_megapixels)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return "picture: missing", str(path)
    except OSError as error:
        return "picture: unreadable", f"{path}: {error.strerror}"
    except ImageError as error:
        return f"picture: {error.reason}", str(path)
    if min(picture.size) < options.min_image_side:
        return "picture: too small", f"{path}: {picture.width} x {picture.height}"
    return None


def _fault_of(row: RawRow, currency: str, options: CatalogOptions) -> tuple[str, str] | None:
    """Reason and value of the first fault of a row."""
    if not row.fits:
        return "row: other number of cells than the header", " | ".join((row.code, row.title, row.category))
    for column, text in (("code", row.code), ("title", row.title), ("category", row.category)):
        if (fault := _text_fault_of(text, options.max_text_characters)) is not None:
            return f"{column}: {fault}", text
    if (fault := _price_fault_of(row.price)) is not None:
        return f"price: {fault}", row.price
    if row.currency != currency or not currency:
        return "currency: other than the catalogue's", f"{row.currency}, expected {currency}"
    if not row.image_path or "\0" in row.image_path:
        return "picture: missing", row.image_path
    return None


def _text_fault_of(text: str, most_characters: int) -> str | None:
    if not text:
        return "empty"
    if len(text) > most_characters:
        return "too long"
    if any(unicodedata.category(character) == "Cc" for character in text):
        return "control characters"
    return None


def _price_fault_of(text: str) -> str | None:
    if not _PRICE.fullmatch(text) or math.isinf(float(text)):
        return "not a number"
    return None if float(text) > 0 else "not above zero"


def _most_frequent(currencies: Iterable[str]) -> str:
    counts = Counter(filter(None, currencies))
    return counts.most_common(1)[0][0] if counts else ""


def _reject(options: CatalogOptions, row: int, code: str, reason: str, value: str) -> Reject:
    return Reject(options.table, row, code, reason, value[:_LONGEST_VALUE])
