"""How long the lengths of a million documents take: counted, then mapped from the cache.

Products are drawn: titles of 3 to 9 words, 300 categories, prices with cents, picture sizes of the mix in
docs/measurements/packing.md. Each run is a process of its own. RssAnon is memory that a process has for itself, pages
of a mapped file are the node's. For comparison the tokenizer alone, whole texts on all cores.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from memory import AnonymousMemory
from shards_figures import Figure, in_own_process

from phi3v_dist.console import CommandParser, run_command, say, table

_DRAWN_AT_ONCE = 100_000
_TOKENIZED_AT_ONCE = 4_000
_WORDS = ["Small", "Check", "Cotton", "Silk", "Leather", "Cashmere", "Bag", "Scarf", "Trench", "Coat", "Mini",
          "Belt", "Sneakers", "Wool", "Blend", "with", "and", "in", "Black", "Archive", "Beige", "Größe", "Quilted",
          "Embroidered", "Monogram", "Crossbody", "Card", "Case", "Slim", "Fit", "Polo", "Shirt", "Dress"]  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    parser = CommandParser(
        description=__doc__,
        epilog="example:\n  python tools/bench/lengths.py --samples 20000 --model runs/demo/base",
    )
    parser.add_argument("--model", required=True, help="folder with tokenizer.json and preprocessor_config.json")
    parser.add_argument("--samples", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="the quickest counts (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        _draw(work / "index.arrow", arguments.samples)
        figures = _measure(work, arguments)
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {arguments.samples:,} samples")
    rows = [(told.what, f"{told.value:,.3g}" if told.value < 100 else f"{told.value:,.0f}", told.unit, told.verdict)
            for told in figures]  # fmt: skip
    table("lengths of documents", ["what", "value", "unit", "target"], rows)


def _measure(work: Path, arguments: argparse.Namespace) -> list[Figure]:
    counted, mapped, whole = [], [], []
    for repeat in range(arguments.repeats):
        told = (work / "index.arrow", arguments.model, work / f"cache{repeat}")
        counted.append(in_own_process(_lengths, *told))
        mapped.append(in_own_process(_lengths, *told))
        whole.append(in_own_process(_tokenize_whole, *told[:2]))
    (mean_tokens,) = {run["mean_tokens"] for run in counted + mapped}
    return [
        Figure("counted the first time", min(run["seconds"] for run in counted), "s", most=45),
        Figure("processor time then", min(run["cpu_seconds"] for run in counted), "s CPU"),
        Figure("memory then, at most", max(run["most_mb"] for run in counted), "MB RssAnon"),
        Figure("whole texts by the tokenizer, without any lengths", min(run[0] for run in whole), "s"),
        Figure("processor time then", min(run[1] for run in whole), "s CPU"),
        Figure("mapped", min(run["seconds"] for run in mapped), "s", most=1),
        Figure("memory then, at most", max(run["most_mb"] for run in mapped), "MB RssAnon"),
        Figure("mean length", mean_tokens, "tokens"),
    ]


def _lengths(index_file: Path, model: str, cache: Path) -> dict[str, float]:
    from phi3v_dist.documents.length_cache import cached_lengths

    index, processor = _open(index_file, model)
    with AnonymousMemory() as memory:
        started, started_cpu = time.monotonic(), time.process_time()
        lengths = cached_lengths(index, processor, cache)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - started_cpu
    mean = float(lengths.tokens.mean())
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "most_mb": memory.most_mb, "mean_tokens": mean}


def _tokenize_whole(index_file: Path, model: str) -> tuple[float, float]:
    """Seconds, and processor time, of the tokenizer on all cores for whole texts; by a tenth of them."""
    from phi3v_dist.documents.prompt import answer_text

    index, processor = _open(index_file, model)
    part = index.table.slice(0, len(index) // 10)
    rows = zip(*(part.column(name).to_pylist() for name in ("title", "category", "price")), strict=True)
    texts = [answer_text(*row) for row in rows]
    started, started_cpu = time.monotonic(), time.process_time()
    for first in range(0, len(texts), _TOKENIZED_AT_ONCE):
        processor.template.tokenizer.encode_batch_fast(texts[first : first + _TOKENIZED_AT_ONCE])
    return 10 * (time.monotonic() - started), 10 * (time.process_time() - started_cpu)


def _open(index_file: Path, model: str):  # type: ignore[no-untyped-def]
    from phi3v_dist.config.options import DocumentOptions
    from phi3v_dist.documents.processor import DocumentProcessor
    from phi3v_dist.shards.index import ShardIndex

    drawn = pa.ipc.open_file(pa.memory_map(str(index_file))).read_all()
    index = ShardIndex(index_file.parent, drawn, "drawn")
    return index, DocumentProcessor.from_folder(model, DocumentOptions())


def _draw(path: Path, samples: int) -> None:
    random = np.random.default_rng(0)
    parts = [_draw_part(random, min(_DRAWN_AT_ONCE, samples - first)) for first in range(0, samples, _DRAWN_AT_ONCE)]
    drawn = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    with pa.ipc.new_file(str(path), drawn.schema) as file:
        file.write_table(drawn)


def _draw_part(random: np.random.Generator, count: int) -> pa.Table:
    words = np.array(_WORDS)
    titles = [" ".join(words[random.integers(0, len(words), k)]) for k in random.integers(3, 10, count)]
    groups = [f"{_WORDS[n % len(_WORDS)]}/{_WORDS[(7 * n) % len(_WORDS)]} {n // 60}" for n in range(300)]
    width, height = _draw_sizes(random, count)
    starts = pa.array(np.arange(count + 1, dtype=np.int32))
    return pa.table(
        {
            "title": [
                f"{title} {number}" for title, number in zip(titles, random.integers(0, 10**6, count), strict=True)
            ],
            "category": pa.DictionaryArray.from_arrays(random.integers(0, 300, count).astype(np.int32), groups),
            "price": np.round(random.lognormal(5, 1, count), 2),
            "width": pa.ListArray.from_arrays(starts, pa.array(width)),
            "height": pa.ListArray.from_arrays(starts, pa.array(height)),
        }
    )


def _draw_sizes(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels: common aspect ratios, a long side around 1,000, 30 % of the pictures a little off their ratio."""
    ratios = np.array([1, 3 / 4, 4 / 5, 2 / 3, 4 / 3, 3 / 2, 16 / 9, 0])
    ratio = random.choice(ratios, count, p=[0.55, 0.14, 0.10, 0.08, 0.05, 0.03, 0.01, 0.04])
    ratio = np.where(ratio == 0, np.exp(random.normal(-0.15, 0.35, count)), ratio)
    ratio *= np.where(random.random(count) < 0.3, random.uniform(0.985, 1.015, count), 1)
    long = np.clip(random.lognormal(np.log(1000), 0.45, count), 300, 3000)
    sides = (np.minimum(long, long * ratio), np.minimum(long, long / ratio))
    return tuple(np.maximum(np.round(side), 1).astype(np.int32) for side in sides)


if __name__ == "__main__":
    sys.exit(run_command(main))
