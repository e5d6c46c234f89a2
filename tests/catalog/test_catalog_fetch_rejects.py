"""What is missing, row by row, and counts that add up."""

from pathlib import Path

import pyarrow.parquet as pq

from phi3v_dist.catalog.fetch_rejects import urls_of, write_fetch_rejects
from phi3v_dist.catalog.fetch_state import fetch_state
from phi3v_dist.catalog.fetched import key_of
from phi3v_dist.catalog.rejects import SCHEMA
from phi3v_dist.catalog.tables import RawRow
from phi3v_dist.config.options import CatalogOptions

A, B, C = (f"http://a.test/{name}.png" for name in "abc")


def test_only_urls_among_the_pictures_that_shards_take_are_fetched() -> None:
    row = RawRow(2, "1", "", "", "", "", (b"\x89PNG", "x.png", A, B, C))
    assert urls_of(row, CatalogOptions(max_pictures=4)) == [A, B]


def test_each_missing_picture_is_a_row_and_counts_add_up(catalog) -> None:
    table = catalog([A, B], [B, "x.png"], C)
    with fetch_state(Path(table.fetched_folder)) as state:
        state.plan([A, B, C])
        state.fetched(key_of(A), "png")
        state.failed(key_of(B), "fetch: timed out", "no whole answer in 1 s")
        counts = write_fetch_rejects(table, state)
    assert counts == {"fetched": 1, "fetch: timed out": 2, "not fetched": 1, "no URL, left alone": 1}
    found = pq.read_table(Path(table.fetched_folder) / "rejects.parquet")
    assert found.schema.equals(SCHEMA)
    assert [(row["row"], row["product_code"], row["reason"], row["value"]) for row in found.to_pylist()] == [
        (2, "P0", "fetch: timed out", f"{B} no whole answer in 1 s"),
        (3, "P1", "fetch: timed out", f"{B} no whole answer in 1 s"),
        (4, "P2", "not fetched", C),
    ]
