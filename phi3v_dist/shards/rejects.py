"""What was left out, and why: one row per rejected product.

Enters: the catalogue's ``Reject`` verdicts. Leaves: ``rejects.parquet``, typed also when nothing was rejected, so that
any reader can join it to the product table; and counts by reason.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phi3v_dist.catalog.checks import Reject
from phi3v_dist.files import atomic_path
from phi3v_dist.shards.manifest import REJECTS_NAME

SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),  # as the product table counts its rows
        ("product_code", pa.string()),
        ("reason", pa.string()),
        ("value", pa.string()),  # what was found
    ]
)


def write_rejects(folder: Path, rejects: Iterable[Reject]) -> None:
    """Write ``rejects.parquet``, sorted by file and row."""
    rows = [{name: getattr(reject, name) for name in SCHEMA.names} for reject in rejects]
    rows.sort(key=lambda row: (row["file"], row["row"]))
    with atomic_path(folder / REJECTS_NAME) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="zstd")


def count_reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """Rejects by reason."""
    return dict(Counter(reject.reason for reject in rejects))
