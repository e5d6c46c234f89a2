"""How long a start takes to its first batch, and tools/plan_packs.py to its end: a thousand samples and millions.

A shard folder is grown: its tar files are linked again and again under new names and stand in one large index, so that
every sample can be read. Each start is a process of its own that does what training does before its first step, without
the weights: options, index, tokenizer, lengths, plan (the steps of its epochs), loader processes, the first pack
read and collated. The first start on a node copies the index and counts lengths, later ones map both; imports aren't
counted.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from shards_figures import Figure, in_own_process

from phi3v_dist.console import CommandParser, progress, run_command, say, table
from phi3v_dist.files import write_json
from phi3v_dist.shards.index import SHARD_SCHEMA, load_index, write_index
from phi3v_dist.shards.manifest import MANIFEST_NAME, SCHEMA_VERSION, describe_file

RECIPE = "launch/recipes/demo_cpu.yaml"
TARGET_SECONDS = 10
PACKS_PER_STEP = 256


def main() -> None:
    """Grow the folder, start, print a table."""
    arguments = _parse()
    figures = []
    for samples in arguments.samples or [1000, 1_000_000]:
        with tempfile.TemporaryDirectory(dir=arguments.work) as work:
            grown = _grow(arguments.shards, Path(work, "shards"), samples)
            words = [f"shards.folder={work}/shards", f"shards.cache_folder={work}/cache", f"run_folder={work}/run"]
            words += [f"model.folder={arguments.model}", "training.steps=0", f"training.epochs={arguments.epochs}"]
            for start, most in (("first on a node", None), ("later", TARGET_SECONDS)):
                told = in_own_process(_first_batch, [*words, *arguments.overrides])
                if isinstance(told, str):
                    raise SystemExit(told)
                figures.append(Figure(f"{grown:,}, {start}: materials", told[0], "s"))
                figures.append(Figure(f"{grown:,}, {start}: first batch", told[1], "s", most=most))
            words.append(f"packing.packs_per_step={PACKS_PER_STEP}")
            for what, cache in (("lengths counted", f"{work}/other"), ("lengths kept", f"{work}/cache")):
                seconds, most_mb = _plan_packs([*words, *arguments.overrides, f"shards.cache_folder={cache}"])
                most = 60 * max(1, round(grown / 1e6))
                figures.append(Figure(f"{grown:,}, tools/plan_packs.py, {what}", seconds, "s", most=most))
                figures.append(Figure(f"{grown:,}, tools/plan_packs.py, {what}: resident", most_mb, "MB"))
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rows = [(told.what, f"{told.value:.2f}", told.unit, told.verdict) for told in figures]
    table("until the first batch", ["what", "value", "unit", "target"], rows)


def _grow(source: Path, folder: Path, samples: int) -> int:
    """A folder of ``samples`` train samples or a few more; how many."""
    index = load_index(source)
    rows = index.table.select(SHARD_SCHEMA.names).take(pa.array(index.numbers("train")))
    names = rows["shard"].cast(pa.string())
    copies = -(-samples // len(rows))

    def parts() -> Iterator[pa.Table]:
        for copy in progress(range(copies), "copies of the index", copies):
            renamed = pa.array([f"train/{copy}-{Path(name).name}" for name in names.to_pylist()])
            for tar in set(names.to_pylist()):
                os.link(source / tar, folder / f"train/{copy}-{Path(tar).name}")
            yield rows.set_column(rows.column_names.index("shard"), "shard", renamed).cast(SHARD_SCHEMA)

    (folder / "train").mkdir(parents=True)
    write_index(folder / "index.parquet", parts())
    told = {"schema_version": SCHEMA_VERSION, "shards": [], "index": describe_file(folder, "index.parquet")}
    write_json(folder / MANIFEST_NAME, told)
    return copies * len(rows)


def _first_batch(words: list[str]) -> tuple[float, float]:
    """Seconds until the materials are gathered, and until the first batch."""
    from phi3v_dist.config.loading import load_config
    from phi3v_dist.packing.loader import PackLoader
    from phi3v_dist.shards.sources import SourcesReader
    from phi3v_dist.training.materials import gather_materials

    started = time.monotonic()
    config = load_config(RECIPE, words).config
    materials = gather_materials(config)
    gathered = time.monotonic() - started
    reader = SourcesReader(materials.index, config.shards)
    loader = PackLoader(materials.plan, reader, materials.processor, config.packing, rank=0, ranks=2)
    _, batches = next(loader.steps(0, 1))
    batch = next(batches)
    seconds = time.monotonic() - started
    assert len(batch.input_ids) and not batch.damaged
    loader.close()
    return gathered, seconds


def _plan_packs(words: list[str]) -> tuple[float, float]:
    """Seconds and the most resident MB of the command, imports and mapped files counted."""
    command = [sys.executable, "tools/plan_packs.py", "--config", RECIPE, "--json", *words]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"tools/plan_packs.py ended with {process.returncode}")
    return time.monotonic() - started, usage.ru_maxrss / 1000


def _parse() -> argparse.Namespace:
    parser = CommandParser(
        description=__doc__,
        epilog="example:\n  python tools/bench/first_batch.py --shards runs/demo/shards --model runs/demo/base",
    )
    parser.add_argument("--shards", type=Path, required=True, help="shard folder that is grown")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--samples", type=int, action="append", metavar="N", help="default: 1,000 and 1,000,000")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the run, whose steps are counted (%(default)s)")
    parser.add_argument("--work", type=Path, help="folder for what is made, on the file system of --shards")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options laid over the demo recipe")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
