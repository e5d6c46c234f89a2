"""How fast shards are: making them beside a plain loop, reading them in random order beside webdataset and others;
index and page of a million samples.

Each part makes its data below --work (a few GB), measures every way in turn in processes of its own, and names the
target. A peer that isn't installed is left out and said so.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import shards_index
import shards_likeness
import shards_memory
import shards_page
import shards_reading
import shards_writing
from shards_figures import Figure

from phi3v_dist.console import CommandParser, run_command, say, table

PARTS = {
    "reading": shards_reading.measure,
    "writing": shards_writing.measure,
    "likeness": shards_likeness.measure,
    "memory": shards_memory.measure,
    "index": shards_index.measure,
    "page": shards_page.measure,
}


def main() -> None:
    """Measure the parts asked for and print their figures."""
    parser = CommandParser(
        description=__doc__,
        epilog="example:\n  OMP_NUM_THREADS=1 python tools/bench/shards.py --part reading --samples 10000",
    )
    parser.add_argument("--part", action="append", choices=sorted(PARTS), help="default: all")
    parser.add_argument("--work", type=Path, help="folder for the data, kept (default: a temporary one, deleted)")
    parser.add_argument(
        "--samples", type=int, default=10_000, help="samples of reading, writing (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="samples of index, products of memory, pictures of likeness"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way, in turn (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for part in arguments.part or PARTS:
            _print(part, PARTS[part](work / part, arguments), as_json=arguments.json)


def _print(part: str, figures: list[Figure], *, as_json: bool) -> None:
    if as_json:
        for figure in figures:
            print(json.dumps({"part": part, **figure.as_dict()}))
        return
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rows = [(told.what, f"{told.value:,.3g}" if told.value < 100 else f"{told.value:,.0f}", told.unit, told.verdict)
            for told in figures]  # fmt: skip
    table(part, ["what", "value", "unit", "target"], rows)


if __name__ == "__main__":
    sys.exit(run_command(main))
