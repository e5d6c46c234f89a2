"""Making shards beside a plain loop with webdataset's ``ShardWriter``: the same rows, the same pictures.

Each way is a command of its own, from its start to its end, the quickest of the repeats, in turn. ``loop alone``: the
peer without its start, which imports torch. Ours always makes its files durable, writes index and hashes, and can be
killed at any moment; the plain loop leaves its files to the page cache, or, said so, makes each tar file durable too.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from shards_figures import Figure

from phi3v_dist.console import say

_TOOLS = Path(__file__).parents[1]
_HEADER = "product_code,title,category3_code,full_price,currency_code,local_image_path"
_SIDES = (600, 1300)  # pixels
_PER_FOLDER = 1000


@dataclass(frozen=True)
class _Run:
    seconds: float
    cpu_seconds: float
    told: str  # what the command printed


def measure(work: Path, arguments: argparse.Namespace) -> list[Figure]:
    """Make the table where it is missing, and make shards of it in every way, in turn."""
    table = work / f"catalog-{arguments.samples}" / "products.csv"
    if not table.exists():
        draw_catalog(table, arguments.samples)
    _read_through(table.parent)
    output = work / "shards"
    ways = {
        (checks, name): command
        for checks in ("checks", "no checks")
        for name, command in {
            "plain loop": _loop(table, output, checks),
            "plain loop, durable": [*_loop(table, output, checks), "--durable"],
            "ours, 1 worker": _ours(table, output, checks, 1),
            "ours, 2 workers": _ours(table, output, checks, 2),
        }.items()
    }
    runs: dict[tuple[str, str], list[_Run]] = {}
    for _ in range(arguments.repeats):
        for way, command in ways.items():
            runs.setdefault(way, []).append(_run(command, output))
            say(f"{', '.join(way)}: {runs[way][-1].seconds:.1f} s, load {os.getloadavg()[0]:.1f}")
    return _figures(runs, arguments.samples)


def draw_catalog(table: Path, rows: int) -> None:
    """Pictures of 0.9 megapixels and 147 KB in the mean, no two alike, and the table that names them."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 9, (_SIDES[1], _SIDES[1], 3)).astype(np.float32)
    lines = [_HEADER]
    for number in range(rows):
        width, height = (int(side) for side in random.integers(*_SIDES, 2))
        colours = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        pixels = np.clip(smooth + noise[:height, :width], 0, 255).astype(np.uint8)
        memory = io.BytesIO()
        Image.fromarray(pixels).save(memory, "JPEG", quality=80)
        name = f"{number // _PER_FOLDER:05d}/{number:09d}.jpg"
        (table.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (table.parent / name).write_bytes(memory.getvalue())
        texts = f"P{number:09d},Small leather bag number {number},Bags {number % 300}"
        lines.append(f"{texts},{10 + number % 997}.5,EUR,{name}")
    table.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _loop(table: Path, output: Path, checks: str) -> list[str]:
    command = [str(_TOOLS / "bench/shards_plain_loop.py"), str(table), str(output)]
    return [*command, "--checks"] if checks == "checks" else command


def _ours(table: Path, output: Path, checks: str, workers: int) -> list[str]:
    recipe = table.with_name("recipe.yaml")
    recipe.write_text("{}\n", encoding="utf-8")
    return [str(_TOOLS / "make_shards.py"), "--config", str(recipe), f"catalog.table={table}",
            f"catalog.check_pictures={str(checks == 'checks').lower()}", f"shards.folder={output}",
            f"shards.workers={workers}"]  # fmt: skip


def _run(command: list[str], output: Path) -> _Run:
    shutil.rmtree(output, ignore_errors=True)
    os.sync()  # nobody pays for the files of the one before
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    told = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    assert status == 0, f"{' '.join(command)} ended with {status}: {told}"
    return _Run(seconds, used.ru_utime + used.ru_stime, told)


def _figures(runs: dict[tuple[str, str], list[_Run]], rows: int) -> list[Figure]:
    rate = {way: max(rows / run.seconds for run in told) for way, told in runs.items()}
    figures = []
    for way, told in runs.items():
        cpu = min(run.cpu_seconds for run in told) / rows * 1e6
        figures += [Figure(", ".join(way), rate[way], "products/s"), Figure(", ".join(way), cpu, "µs CPU per product")]
        if "loop" in way[1]:
            alone = max(rows / float(run.told) for run in told)
            figures.append(Figure(f"{', '.join(way)}, loop alone", alone, "products/s"))
    targets = {("checks", 2): 1.7, ("no checks", 1): 1.0, ("no checks", 2): 1.0}
    for checks in ("checks", "no checks"):
        for workers in ("1 worker", "2 workers"):
            for peer in ("plain loop", "plain loop, durable"):
                times = rate[checks, f"ours, {workers}"] / rate[checks, peer]
                least = targets.get((checks, int(workers[0])))
                figures.append(Figure(f"{checks}: ours, {workers} ÷ {peer}", times, "times", least=least))
    return figures


def _read_through(folder: Path) -> None:
    for path in folder.rglob("*.jpg"):
        path.read_bytes()
