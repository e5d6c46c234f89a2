"""From a raw row to a checked product, or a reject with the reason.

Enters: a raw row. Leaves: ``Product`` or ``Reject``, never neither and never both. What needs the other rows (the
currency that most have, codes seen before) is checked in ``product_file.py``, pictures in ``picture_checks.py``.

Reasons have the form ``column: fault``, and are stable, so that rejects can be counted and joined.
"""

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from phi3v_dist.catalog.cells import PictureCell
from phi3v_dist.catalog.pictures import Picture
from phi3v_dist.catalog.tables import RawRow
from phi3v_dist.config.options import CatalogOptions

OTHER_CURRENCY = "currency: other than the catalogue's"
DUPLICATE = "code: duplicate"
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


class _Fault(Exception):
    """A row that is no product: reason and value."""


def check_row(row: RawRow, options: CatalogOptions, find: Callable[[PictureCell], Picture]) -> Product | Reject:
    """Check one row by itself, repairing what the policy says. ``find``: the picture that a cell names."""
    try:
        if not row.fits:
            found = " | ".join((row.code, row.title, row.category))
            raise _Fault("row: other number of cells than the header", found)
        return Product(
            row=row.row,
            code=_text("code", row.code, options.max_text_characters),
            title=_text("title", row.title, options.max_text_characters, options),
            category=_text("category", row.category, options.max_text_characters, options),
            price=_price(row.price),
            currency=row.currency,
            pictures=_pictures(row, options, find),
            further={name: _further(name, text, options) for name, text in row.further.items()},
        )
    except _Fault as fault:
        reason, value = fault.args
        return reject(options, row.row, row.code, reason, value)


def reject(options: CatalogOptions, row: int, code: str, reason: str, value: str) -> Reject:
    """A reject; of a long value its beginning."""
    return Reject(options.table, row, code, reason, value[:_LONGEST_VALUE])


def _text(column: str, text: str, most_characters: int, options: CatalogOptions | None = None) -> str:
    """The text if nothing is wrong with it, or it can be repaired. ``options``: None, nothing is repaired."""
    if not text.isprintable() and any(unicodedata.category(character) == "Cc" for character in text):
        if options is None or options.policy.control_characters == "reject":
            raise _Fault(f"{column}: control characters", text)
        text = " ".join("".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in text).split())
    if not text:
        raise _Fault(f"{column}: empty", text)
    if "\ufffd" in text:  # another encoding was read as UTF-8, here or earlier
        raise _Fault(f"{column}: broken characters", text)
    if len(text) > most_characters:
        if options is None or options.policy.long_text == "reject":
            raise _Fault(f"{column}: too long", text)
        whole_words, space, _ = text[: most_characters + 1].rpartition(" ")
        text = whole_words if space else text[:most_characters]
    return text


def _further(name: str, text: str, options: CatalogOptions) -> str:
    lines = text.translate(_LINE_ENDS)
    checked = _text(f"further.{name}", lines, options.max_further_characters, options) if lines.strip() else ""
    return text if checked == lines else checked


def _price(text: str) -> float:
    if not _PRICE.fullmatch(text) or math.isinf(float(text)):
        raise _Fault("price: not a number", text)
    if float(text) <= 0:
        raise _Fault("price: not above zero", text)
    return float(text)


def _pictures(row: RawRow, options: CatalogOptions, find: Callable[[PictureCell], Picture]) -> tuple[Picture, ...]:
    if not row.pictures:
        raise _Fault("picture: missing", "")
    pictures = []
    for cell in row.pictures[: options.max_pictures]:
        if isinstance(cell, str) and "\0" in cell:
            raise _Fault("picture: missing", cell)
        pictures.append(find(cell))
    return tuple(pictures)
