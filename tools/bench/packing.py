"""How full, how equal and how fast packs are made, beside the ways of others, in one table from one run.

Each way packs the same drawn documents in a process of its own: all of an epoch, in steps of 256 packs. Fill stands
beside a bound that no algorithm can pass. Imbalance: time of all micro-steps of 64 ranks, in each of which all wait for
the one with the most vision work and then for the one with the most language work, over that of equal shares. Then: the
first step of a hundred million documents beside that of a million. A library that isn't installed is left out.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from memory import AnonymousMemory
from packing_mixes import MIXES, Mix, catalogue
from packing_ways import WAYS
from shards_figures import in_own_process

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.console import CommandParser, run_command, say, table
from phi3v_dist.packing.balance import pack_costs
from phi3v_dist.packing.bound import fill_bound
from phi3v_dist.packing.order import Source
from phi3v_dist.packing.plan import Plan
from phi3v_dist.packing.subset import pack_documents

OURS = "ours"
RANKS, PACKS_PER_STEP, SHARD = 64, 256, 1000
LENGTHS = (8192, 32_768, 131_072)
NEEDS = {"bin packing per 1,000 (ms-swift)": "binpacking"}
SLOW = ("bin packing per 1,000 (ms-swift)", "greedy knapsack per 1,000 (LLaMA-Factory)")  # plain Python


def main() -> None:
    """Measure and print."""
    arguments = _parse()
    if not arguments.json:
        say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in arguments.mix or MIXES:
        for num_crops in (16, 4):
            for pack_tokens in arguments.pack_tokens or LENGTHS:
                best = in_own_process(_bound, name, num_crops, pack_tokens, arguments.samples)
                title = f"{name}, {num_crops} crops, packs of {pack_tokens}: bound {best:.4f}"
                _print(title, list(_compare(name, num_crops, pack_tokens, arguments)), arguments)
    counts = [arguments.samples, *([arguments.huge] if arguments.huge else [])]
    _print("until the first step", [_first_step(count) for count in counts], arguments)


def _print(title: str, rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    if arguments.json:
        for row in rows:
            print(json.dumps({"what": title, **row}), flush=True)
    else:
        table(title, list(rows[0]), [list(map(_word, row.values())) for row in rows])


def _compare(name: str, num_crops: int, pack_tokens: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for way in (OURS, *WAYS):
        if find_spec(NEEDS.get(way, "numpy")) is None:
            yield {"way": f"{way}: {NEEDS[way]} isn't installed"}
            continue
        count = min(arguments.samples, arguments.slow_samples) if way in SLOW else arguments.samples
        yield {"way": way, **in_own_process(_epoch, way, name, num_crops, pack_tokens, count)}


def _fitting(name: str, num_crops: int, pack_tokens: int, samples: int) -> Mix:
    mix = MIXES[name](samples, num_crops)
    fits = mix.tokens <= pack_tokens
    return Mix(mix.tokens[fits], mix.supervised[fits], mix.crops[fits])


def _bound(name: str, num_crops: int, pack_tokens: int, samples: int) -> float:
    lengths = _fitting(name, num_crops, pack_tokens, samples).tokens.astype(np.int64)
    places, ends = pack_documents(lengths[:100_000], pack_tokens, 2048, 128)
    packs = [lengths[part] for part in np.split(places, ends[:2000])[:-1]]
    return fill_bound(lengths, pack_tokens, packs, most_seconds=60)


def _epoch(way: str, name: str, num_crops: int, pack_tokens: int, samples: int) -> dict[str, Any]:
    mix = _fitting(name, num_crops, pack_tokens, samples)
    make = _plan_epoch if way == OURS else _pack_epoch
    make(way, Mix(*(column[:2000] for column in vars(mix).values())), pack_tokens)  # compiles
    with AnonymousMemory() as memory:
        started, cpu_started = time.perf_counter(), time.process_time()
        documents, starts = make(way, mix, pack_tokens)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    assert len(np.unique(documents)) == len(documents) == len(mix.tokens), "each document once"
    tokens = mix.tokens[documents].astype(np.int64)
    assert np.add.reduceat(tokens, starts).max() <= pack_tokens, "no pack over the budget"
    costs = pack_costs(tokens, mix.crops[documents].astype(np.int64), starts)
    rows = costs[:, : costs.shape[1] // RANKS * RANKS].reshape(2, -1, RANKS)
    return {
        "documents": len(documents),
        "fill": tokens.sum() / (len(starts) * pack_tokens),
        "imbalance": rows.max(axis=2).sum() / rows.mean(axis=2).sum() if rows.size else float("nan"),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "mb": memory.most_mb,
    }


def _pack_epoch(way: str, mix: Mix, pack_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffle, pack, shuffle the packs: documents pack by pack, and where packs begin."""
    random = np.random.default_rng(0)
    order = random.permutation(len(mix.tokens))
    places, ends = WAYS[way](mix.tokens[order].astype(np.int64), pack_tokens)
    parts = np.split(order[places], ends[:-1])
    return _laid_out([parts[place] for place in random.permutation(len(parts))])


def _plan_epoch(_: str, mix: Mix, pack_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    plan = _plan(mix, pack_tokens)
    return _laid_out([pack for number in range(plan.steps_per_epoch()) for pack in plan.step(number).packs])


def _plan(mix: Mix, pack_tokens: int) -> Plan:
    firsts = np.arange(0, len(mix.tokens), SHARD)
    shards = np.stack([firsts, np.minimum(firsts + SHARD, len(mix.tokens))], axis=1)
    options = PackingOptions(pack_tokens=pack_tokens, packs_per_step=PACKS_PER_STEP)
    return Plan(mix.tokens, mix.supervised, mix.crops, [Source(shards)], options, 0)


def _laid_out(packs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.array([len(pack) for pack in packs])
    return np.concatenate(packs), np.cumsum(sizes) - sizes


def _first_step(samples: int) -> dict[str, Any]:
    """The first step of so many documents, whose lengths lie in mapped files as training's do."""
    with tempfile.TemporaryDirectory() as folder:
        block = catalogue(1_000_000, 16)
        for name, column in vars(block).items():
            with open(Path(folder, name), "wb") as file:
                for first in range(0, samples, len(column)):
                    np.roll(column, first % 997)[: samples - first].tofile(file)
        del block, column
        return in_own_process(_make_first_step, Path(folder), samples)


def _make_first_step(folder: Path, samples: int) -> dict[str, Any]:
    few = catalogue(5000, 16)
    for column in vars(few).values():
        column.flags.writeable = False  # as of mapped files, for which other code is compiled
    _plan(few, 8192).step(0)
    mix = Mix(*(np.memmap(folder / name, np.int32, "r") for name in ("tokens", "supervised", "crops")))
    with AnonymousMemory() as memory:
        started = time.perf_counter()
        plan = _plan(mix, 8192)
        opened = time.perf_counter() - started
        steps = plan.steps_in(1.0)  # as training counts them before it begins
        plan.step(0)
        seconds = time.perf_counter() - started
    return {"documents": samples, "windows": plan.windows_per_epoch(), "steps": steps, "lengths_looked_at_s": opened,
            "first_step_s": seconds, "mb": memory.most_mb}  # fmt: skip


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _parse() -> argparse.Namespace:
    epilog = "example:\n  python tools/bench/packing.py --samples 20000 --mix catalogue --pack-tokens 8192 --huge 0"
    parser = CommandParser(description=__doc__, epilog=epilog)
    parser.add_argument("--samples", type=int, default=1_000_000, help="documents of a mix (default: %(default)s)")
    parser.add_argument("--slow-samples", type=int, default=100_000, help="for ways in plain Python (%(default)s)")
    parser.add_argument("--huge", type=int, default=100_000_000, help="documents of the first step, 0: none")
    parser.add_argument("--mix", action="append", choices=sorted(MIXES), help="default: all")
    parser.add_argument("--pack-tokens", action="append", type=int, metavar="N", help="default: 8K, 32K, 128K")
    parser.add_argument("--json", action="store_true", help="one JSON object per row")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
