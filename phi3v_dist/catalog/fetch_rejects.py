"""What became of every picture of the product table, and a row for each that could not be fetched.

Enters: the table, once more, and the verdicts. Leaves: ``rejects.parquet`` in the folder of fetched pictures, with the
columns of the shards' own, and counts that add up to the pictures of the table. Memory holds a few thousand rows.
"""

from collections import Counter
from collections.abc import Iterator

import pyarrow.parquet as pq

from phi3v_dist.catalog.checks import Reject, reject
from phi3v_dist.catalog.fetch_state import FetchState
from phi3v_dist.catalog.fetched import is_url
from phi3v_dist.catalog.rejects import SCHEMA, rejects_table
from phi3v_dist.catalog.tables import RawRow, read_table
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.files import atomic_path

REJECTS_NAME = "rejects.parquet"
FETCHED = "fetched"
NO_URL = "no URL, left alone"

_ROWS_AT_A_TIME = 10_000


def urls_of(row: RawRow, options: CatalogOptions) -> list[str]:
    """What of a product's pictures is to be fetched: the URLs among those that shards take."""
    return [picture for picture in row.pictures[: options.max_pictures] if isinstance(picture, str) and is_url(picture)]


def write_fetch_rejects(options: CatalogOptions, state: FetchState) -> Counter[str]:
    """Write the rejects; returns pictures of the table by what became of them."""
    counts: Counter[str] = Counter()
    waiting: list[Reject] = []
    with (
        atomic_path(state.folder / REJECTS_NAME) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        for found in _rejects(options, state, counts):
            waiting.append(found)
            if len(waiting) == _ROWS_AT_A_TIME:
                writer.write_table(rejects_table(waiting))
                waiting.clear()
        writer.write_table(rejects_table(waiting))
    return counts


def _rejects(options: CatalogOptions, state: FetchState, counts: Counter[str]) -> Iterator[Reject]:
    for row in read_table(options):
        urls = urls_of(row, options)
        counts[NO_URL] += min(len(row.pictures), options.max_pictures) - len(urls)
        for url in urls:
            reason, detail = state.verdict(url)
            counts[reason or FETCHED] += 1
            if reason:
                yield reject(options, row.row, row.code, reason, f"{url} {detail}".rstrip())
