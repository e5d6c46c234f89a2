"""The page of a data set of a million samples: what making it costs, the import of torch included.

The folder is the one of the index's part, with rejects but without tar files: no product has a picture to show, all
else is there.
"""

import argparse
import resource
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import shards_index
from shards_figures import Figure, in_own_process

from phi3v_dist.catalog.rejects import SCHEMA
from phi3v_dist.files import write_json
from phi3v_dist.shards.manifest import MANIFEST_NAME, describe_file, read_manifest

_TABLE = "products.csv"
_REASONS = ("price: not a number", "picture: missing", "title: empty", "code: duplicate")


def measure(work: Path, arguments: argparse.Namespace) -> list[Figure]:
    """Write the page of ``--rows`` samples and a tenth as many rejects in fresh processes; the quickest of them."""
    if not (work / MANIFEST_NAME).exists():
        shards_index.make_index(work, arguments.rows)
        _add_rejects(work, arguments.rows, arguments.rows // 10)
    told = [in_own_process(_write_page, work) for _ in range(arguments.repeats)]
    return [
        Figure(f"page of {arguments.rows:,} samples", min(seconds for seconds, _, _ in told), "s"),
        Figure("memory then, at most", max(memory for _, memory, _ in told), "MB resident"),
        Figure("the page", told[0][2], "MB", most=3),
    ]


def _add_rejects(folder: Path, samples: int, count: int) -> None:
    """What the manifest of a whole folder says beside the index."""
    reasons = [_REASONS[row % len(_REASONS)] for row in range(count)]
    rows = [[_TABLE] * count, list(range(count)), [f"R{row}" for row in range(count)], reasons, ["found this"] * count]
    pq.write_table(pa.table(rows, schema=SCHEMA), folder / "rejects.parquet")
    by_reason = {reason: reasons.count(reason) for reason in _REASONS}
    rejects = describe_file(folder, "rejects.parquet") | {"count": count, "by_reason": by_reason}
    splits = pq.read_table(folder / "index.parquet", columns=["split"])["split"].to_pylist()
    told = {"counts": {split: splits.count(split) for split in ("train", "heldout")}, "rejects": rejects}
    told["deliveries"] = [{"table": _TABLE, "rows": samples + count, "table_sha256": "0" * 64, "options": {}}]
    write_json(folder / MANIFEST_NAME, read_manifest(folder) | told)


def _write_page(folder: Path) -> tuple[float, float, float]:
    """Seconds, MB of memory at most, MB of the page."""
    started = time.monotonic()
    from phi3v_dist.reports.folder import write_report

    size = write_report(folder).stat().st_size / 1e6
    return time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, size
