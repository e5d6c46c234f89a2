"""Rejected products as tiles: where each stands, what is wrong with it, and its picture where that can be opened.

Enters: a shard folder's manifest and ``rejects.parquet``. Leaves: the first few of every reason. A reject keeps no
picture, so it is looked for where it came from: in the file that the reject names, in the row of the product table, in
the tar file. Rejects are read in batches, and of a table its first rows alone, so that a page of a million products
costs no more than one of a thousand.
"""

import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from phi3v_dist.catalog.fetched import FetchedPictures
from phi3v_dist.catalog.pictures import NotFetched, Picture, picture_of
from phi3v_dist.catalog.tables import RawRow, read_table
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import CatalogError
from phi3v_dist.images import ImageError
from phi3v_dist.reports.thumbnails import thumbnail
from phi3v_dist.shards.adopt import unusable_pictures
from phi3v_dist.shards.index import check_content

MOST_ROWS = 20_000  # of a product table that are looked through; pictures inside a table cost reading
_MOST_OF_REASON = 4
_MOST_MEGAPIXELS = 60.0  # of a picture that is opened for a thumbnail: 0.2 GB of memory, a second

Reject = dict[str, Any]  # a row of rejects.parquet


class _NoPicture(Exception):
    """Why a reject has no picture to show."""


@dataclass(frozen=True)
class RejectTile:
    """``place``: file and row; ``picture``: data URI, None where there is none to show and ``why`` says the reason."""

    product_code: str
    place: str
    reason: str
    value: str
    picture: str | None
    why: str


def reject_tiles(folder: Path, manifest: dict[str, Any], most: int) -> list[RejectTile]:
    """At most ``most`` tiles, by reason, the most frequent reason first. Raises ``ShardError`` for damaged rejects."""
    reasons = sorted(manifest["rejects"]["by_reason"].items(), key=lambda pair: (-pair[1], pair[0]))
    path = check_content(folder, manifest["rejects"])
    chosen = _first_of_each(path, [reason for reason, _ in reasons[:most]], most)
    if "adopted" in manifest:
        return [_tile(reject, partial(_in_tar, folder, reject)) for reject in chosen]
    tables = _Tables(chosen, manifest["deliveries"])
    return [_tile(reject, partial(_in_catalog, tables, reject)) for reject in chosen]


def _first_of_each(path: Path, reasons: Sequence[str], most: int) -> list[Reject]:
    """The first rejects of each reason, as many of each as there is room for."""
    each = max(1, min(_MOST_OF_REASON, most // max(1, len(reasons))))
    found: dict[str, list[Reject]] = {reason: [] for reason in reasons}
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for reason in pc.unique(batch["reason"]).to_pylist():
                if reason in found and (room := each - len(found[reason])):
                    found[reason] += batch.filter(pc.equal(batch["reason"], reason)).slice(0, room).to_pylist()
    return [reject for rejects in found.values() for reject in rejects]


def _tile(reject: Reject, pictures: Callable[[], Iterable[Picture]]) -> RejectTile:
    picture, why = None, ""
    try:
        picture = _first_that_opens(pictures())
    except _NoPicture as reason:
        why = str(reason)
    place = f"{Path(reject['file']).name}, row {reject['row']:,}"
    return RejectTile(reject["product_code"], place, reject["reason"], reject["value"], picture, why)


def _first_that_opens(pictures: Iterable[Picture]) -> str:
    why = "the product names no picture"
    for picture in pictures:
        try:
            return thumbnail(picture.read(), max_megapixels=_MOST_MEGAPIXELS)
        except ImageError as error:
            why = f"its picture: {error.reason}"
        except NotFetched as error:
            why = f"its picture is on the web: {error}"
        except OSError as error:
            why = f"its picture can't be read: {error.strerror}"
    raise _NoPicture(why)


def _in_tar(folder: Path, reject: Reject) -> list[Picture]:
    try:
        return [Picture(content) for content in unusable_pictures(folder, reject["file"], reject["value"])]
    except (OSError, tarfile.TarError) as error:
        raise _NoPicture(f"its tar file can't be read: {error}") from None


def _in_catalog(tables: "_Tables", reject: Reject) -> list[Picture]:
    return [_named(reject)] if _named(reject) else tables.pictures(reject)


def _named(reject: Reject) -> Picture | None:
    """The picture file that a reject of a picture names, alone or before what was found in it."""
    if reject["reason"].startswith("picture: "):
        for name in (reject["value"], reject["value"].rpartition(": ")[0]):
            if os.path.isfile(name):  # unlike Path's, False also for what can't be a name
                return Picture(Path(name))
    return None


class _Tables:
    """The product tables of rejects, each looked through once for the rows that are shown."""

    def __init__(self, rejects: Iterable[Reject], deliveries: Sequence[dict[str, Any]]) -> None:
        self._options: dict[str, CatalogOptions] = {}
        self._rows: dict[str, dict[int, RawRow] | str] = {}  # by file: its rows, or why there are none
        wanted: dict[str, set[int]] = {}
        for reject in rejects:
            if _named(reject) is None:
                wanted.setdefault(reject["file"], set()).add(reject["row"])
        told = {delivery["table"]: delivery["options"] for delivery in deliveries}
        for file, rows in wanted.items():
            known = {
                name: value for name, value in told[Path(file).name].items() if name in CatalogOptions.model_fields
            }
            self._options[file] = CatalogOptions.model_validate(known | {"table": file})
            self._rows[file] = _look_up(self._options[file], rows)

    def pictures(self, reject: Reject) -> list[Picture]:
        """Pictures of a reject's row. Raises ``_NoPicture`` where the row isn't found, or is another product's now."""
        options, rows = self._options[reject["file"]], self._rows[reject["file"]]
        if isinstance(rows, str):
            raise _NoPicture(rows)
        row = rows.get(reject["row"])
        if row is None:
            raise _NoPicture(f"its row is not among the first {MOST_ROWS:,} of the table")
        if row.code != reject["product_code"]:
            raise _NoPicture("the product table was changed since")
        root = Path(options.table).parent if options.image_root is None else Path(options.image_root)
        fetched = FetchedPictures(options.fetched_folder)
        try:
            return [picture_of(cell, root, fetched) for cell in row.pictures]
        except CatalogError as error:
            raise _NoPicture(f"the fetched pictures: {error.what}") from None
        finally:
            fetched.close()


def _look_up(options: CatalogOptions, wanted: set[int]) -> dict[int, RawRow] | str:
    """Some rows of a table by number, or why it can't be read."""
    if not os.path.exists(options.table):  # a data set of the hub isn't downloaded for a page
        return f"the product table is not at {options.table}"
    found: dict[int, RawRow] = {}
    try:
        for row in islice(read_table(options), MOST_ROWS):
            if row.row in wanted:
                found[row.row] = row
            if len(found) == len(wanted):
                break
    except CatalogError as error:
        return f"the product table: {error.what}"
    return found
