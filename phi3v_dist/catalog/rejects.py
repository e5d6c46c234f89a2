"""What was left out, and why: one row per rejected product, as an Arrow table.

Enters: ``Reject`` verdicts. Leaves: a table, typed also when nothing was rejected, so that any reader can join it to
the product table; and counts by reason.
"""

from collections.abc import Iterable

import pyarrow as pa

from phi3v_dist.catalog.checks import Reject

SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),  # as the product table counts its rows
        ("product_code", pa.string()),
        ("reason", pa.string()),
        ("value", pa.string()),  # what was found
    ]
)


def rejects_table(rejects: Iterable[Reject]) -> pa.Table:
    """Rejects as rows."""
    rows = list(rejects)
    return pa.table([[getattr(reject, name) for reject in rows] for name in SCHEMA.names], schema=SCHEMA)


def count_reasons(rejects: pa.Table) -> dict[str, int]:
    """Rejects by reason, most frequent first."""
    counts = rejects.group_by("reason").aggregate([("row", "count")])
    pairs = zip(counts["reason"].to_pylist(), counts["row_count"].to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
