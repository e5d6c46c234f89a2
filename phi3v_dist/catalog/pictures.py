"""A picture of a product before it is in a shard: where its bytes are, and the one way to get them.

Enters: what a cell of the product table said (a path, a URL, the bytes themselves). Leaves: a ``Picture``, and its
bytes unchanged. A URL has no bytes until it is fetched (``fetched.py``).
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from phi3v_dist.catalog.cells import PictureCell
from phi3v_dist.catalog.fetched import NOT_FETCHED, FetchedPictures, is_url


class NotFetched(Exception):
    """The picture is a URL, and its bytes aren't on this machine; the argument says why."""


@dataclass(frozen=True)
class Span:
    """A part of a file: where bytes of the table are kept while shards are made."""

    file: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Picture:
    """``source``: a file, a part of one, a URL (text) without a file, or the bytes of a file.

    ``reason``: why a URL has no file.
    """

    source: Path | Span | str | bytes
    reason: str = NOT_FETCHED

    def read(self) -> bytes:
        """The picture's bytes, as they came. Raises ``OSError``, or ``NotFetched`` for a URL."""
        match self.source:
            case bytes():
                return self.source
            case Path():
                return self.source.read_bytes()
            case Span(file, offset, length):
                with open(file, "rb") as handle:
                    handle.seek(offset)
                    return handle.read(length)
        raise NotFetched(self.reason)

    def open(self) -> BinaryIO:
        """The same bytes as a file, of which one need not read all."""
        return open(self.source, "rb") if isinstance(self.source, Path) else io.BytesIO(self.read())

    def __str__(self) -> str:
        match self.source:
            case bytes():
                return f"{len(self.source)} bytes in the table"
            case Span():
                return f"{self.source.length} bytes in the table"
        return str(self.source)


def picture_of(cell: PictureCell, root: Path, fetched: FetchedPictures) -> Picture:
    """The picture that a cell names; a path starts from ``root``, a URL is looked up among the ``fetched``."""
    if isinstance(cell, bytes):
        return Picture(cell)
    if not is_url(cell):
        return Picture(root / cell)
    found = fetched.find(cell)
    return Picture(found) if isinstance(found, Path) else Picture(cell, found)
