"""A picture of a product before it is in a shard: where its bytes are, and the one way to get them.

Enters: what a cell of the product table said (a path, a URL, the bytes themselves). Leaves: a ``Picture``, and its
bytes unchanged. A URL has no bytes until it is fetched; ``picture_of`` is the one place that knows where fetched
pictures lie.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from phi3v_dist.catalog.cells import PictureCell

_URL = re.compile(r"https?://", re.IGNORECASE)


class NotFetched(Exception):
    """The picture is a URL, and its bytes aren't on this machine."""


@dataclass(frozen=True)
class Span:
    """A part of a file: where bytes of the table are kept while shards are made."""

    file: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Picture:
    """``source``: a file, a part of one, a URL (text), or the bytes of a file."""

    source: Path | Span | str | bytes

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
        raise NotFetched(self.source)

    def __str__(self) -> str:
        match self.source:
            case bytes():
                return f"{len(self.source)} bytes in the table"
            case Span():
                return f"{self.source.length} bytes in the table"
        return str(self.source)


def picture_of(cell: PictureCell, root: Path) -> Picture:
    """The picture that a cell names; a path starts from ``root``. A URL stays one until it is fetched."""
    return Picture(root / cell if isinstance(cell, str) and not _URL.match(cell) else cell)
