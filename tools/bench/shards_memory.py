"""How memory grows with the table while shards are made: 10,000 products, ten times as many, up to ``--rows``.

The table is a Parquet file that holds its pictures itself, 16 × 16 pixels each, no two alike, so that a million are no
million files. RssAnon, what a process has for itself, is looked at every 50 ms: of the command, and of its two workers
together. Pages of mapped files are the kernel's, given back when somebody needs them.
"""

import argparse
import io
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from memory import rss_anon_mb
from PIL import Image
from shards_figures import Figure

from phi3v_dist.console import say

_COMMAND = Path(__file__).parents[1] / "make_shards.py"
_SMALLEST = 10_000
_ROWS_AT_A_TIME = 10_000
_SIDE = 16


def measure(work: Path, arguments: argparse.Namespace) -> list[Figure]:
    """Make shards of tables of growing size, once each."""
    sizes = [_SMALLEST]
    while sizes[-1] < arguments.rows:
        sizes.append(min(10 * sizes[-1], arguments.rows))
    peaks = {rows: _peaks(work, rows) for rows in sizes}
    figures = []
    for rows, (command, workers, seconds) in peaks.items():
        figures += [
            Figure(f"{rows:,} products, the command", command, "MB RssAnon"),
            Figure(f"{rows:,} products, its two workers", workers, "MB RssAnon"),
            Figure(f"{rows:,} products", rows / seconds, "products/s"),
        ]
    few, many = sizes[0], sizes[-1]
    for which, name in ((0, "the command"), (1, "its two workers")):
        grown = (peaks[many][which] - peaks[few][which]) * 1e6 / max(1, many - few)
        figures.append(Figure(f"grown from {few:,} to {many:,}, {name}", grown, "bytes per product"))
    return figures


def _peaks(work: Path, rows: int) -> tuple[float, float, float]:
    """Most of RssAnon in MB: of the command, of its workers together; and the seconds it took."""
    table, output = work / f"products-{rows}.parquet", work / "shards"
    if not table.exists():
        _write_table(table, rows)
    shutil.rmtree(output, ignore_errors=True)
    recipe = work / "recipe.yaml"
    recipe.write_text("shards: {workers: 2, samples_per_shard: 1000}\n", encoding="utf-8")
    command = [sys.executable, str(_COMMAND), "--config", str(recipe), f"catalog.table={table}",
               f"shards.folder={output}"]  # fmt: skip
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        most_command = most_workers = 0.0
        while process.poll() is None:
            most_command = max(most_command, rss_anon_mb(process.pid))
            most_workers = max(most_workers, sum(map(rss_anon_mb, _children(process.pid))))
            time.sleep(0.05)
    assert process.returncode == 0, f"make_shards ended with {process.returncode}"
    seconds = time.monotonic() - started
    say(f"{rows:,} products: {most_command:.0f} MB, workers {most_workers:.0f} MB, {seconds:.0f} s")
    return most_command, most_workers, seconds


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _write_table(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    memory = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE)).save(memory, "BMP")
    header = memory.getvalue()[: -_SIDE * _SIDE * 3]
    random = np.random.default_rng(0)
    writer = None
    for first in range(0, rows, _ROWS_AT_A_TIME):
        numbers = range(first, min(rows, first + _ROWS_AT_A_TIME))
        part = pa.table(
            {
                "product_code": [f"P{number:09d}" for number in numbers],
                "title": [f"Small leather bag number {number}" for number in numbers],
                "category3_code": [f"Bags {number % 300}" for number in numbers],
                "full_price": [f"{10 + number % 997}.5" for number in numbers],
                "currency_code": ["EUR"] * len(numbers),
                "local_image_path": [header + random.bytes(_SIDE * _SIDE * 3) for _ in numbers],
            }
        )
        writer = writer or pq.ParquetWriter(path, part.schema, compression="none")
        writer.write_table(part)
    assert writer is not None
    writer.close()
