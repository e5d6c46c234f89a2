"""A cell of any kind of table as text, or as the pictures it names.

Enters: a cell as its reader gives it: text of a CSV file, a JSON value, a number, decimal, list or struct of an Arrow
column. Leaves: text as a person would write it, or pictures in order (text: a path or URL; bytes: the file itself).
No text is ever read as a number, so 00042 stays 00042.

A float without a fraction is written without one: 42.0 becomes ``42``. A column of whole numbers with one missing cell
is a column of floats in pandas, and so in the Parquet file it writes; nobody means the code ``42.0`` by that. The text
``42.0`` of a CSV file stays, since there someone may mean it.
"""

import json
import re
from decimal import Decimal

import numpy as np

PictureCell = str | bytes
_SURROGATE = re.compile("[\ud800-\udfff]")


def cell_text(value: object) -> str:
    """A cell as text without outer blanks; empty for a missing value. Broken characters become U+FFFD."""
    return _as_text(value).strip()


def _as_text(value: object) -> str:
    match value:
        case str():
            text = value if value.isascii() else _SURROGATE.sub("\ufffd", value)
        case None:
            text = ""
        case bool() | np.bool_():
            text = "true" if value else "false"
        case float() | np.floating():
            text = "" if np.isnan(value) else np.format_float_positional(value, trim="-")
        case Decimal():
            text = format(value, "f")
        case bytes():
            text = value.decode("utf-8", "replace")
        case list() | tuple():
            text = ", ".join(filter(None, map(cell_text, value)))
        case dict():
            text = _as_text(json.dumps(value, ensure_ascii=False, default=cell_text))
        case _:
            text = str(value)
    return text


def cell_pictures(value: object, separator: str | None = None) -> list[PictureCell]:
    """Pictures that a cell holds, in order.

    A list holds many, and so does text that is a JSON list, or has ``separator`` in it (a backslash before it makes it
    part of a name). A struct of ``bytes`` and ``path`` is a picture as ``datasets`` stores it.
    """
    match value:
        case bytes():
            return [value] if value else []
        case dict() if "bytes" in value or "path" in value:
            return cell_pictures(value.get("bytes")) or cell_pictures(value.get("path"))
        case list() | tuple():
            return [picture for inner in value for picture in cell_pictures(inner)]
    text = cell_text(value)
    if text.startswith("[") and (inner := _json_list(text)) is not None:
        return cell_pictures(inner)
    parts = [text] if separator is None else _split(text, separator)
    return [part for part in parts if part]


def _json_list(text: str) -> list[object] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _split(text: str, separator: str) -> list[str]:
    parts = re.split(rf"(?<!\\){re.escape(separator)}", text)
    return [part.replace(f"\\{separator}", separator).strip() for part in parts]
