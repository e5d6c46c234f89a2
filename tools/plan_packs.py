"""What an epoch will be before any GPU is asked for: packs, steps, how full, how equal the work, and whether it hangs.

Makes every step of the first epoch as training makes it, from the index and the tokenizer alone. Exit code 2 where a
step would hang, overflow or teach nothing; each is named.
"""

import argparse
import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from phi3v_dist.config.loading import load_config
from phi3v_dist.console import CommandParser, count, run_command, say, table

if TYPE_CHECKING:
    from phi3v_dist.packing.forecast import Forecast

EXAMPLE = "example:\n  python tools/plan_packs.py --config launch/recipes/demo_cpu.yaml packing.pack_tokens=1024"


def main() -> int:
    """Forecast, print, and say by the exit code whether it can be trained."""
    arguments = _parse()
    from phi3v_dist.documents.length_cache import joined_lengths  # after --help: slow to import
    from phi3v_dist.documents.processor import DocumentProcessor
    from phi3v_dist.packing.forecast import forecast
    from phi3v_dist.packing.from_shards import heldout_plan, train_plan
    from phi3v_dist.shards.sources import open_sources

    config = load_config(arguments.recipe, arguments.overrides).config
    processor = DocumentProcessor.from_folder(config.model.folder, config.documents)
    index = open_sources(config.shards)
    with redirect_stdout(sys.stderr) if arguments.json else nullcontext():  # progress must not stand in the JSON
        lengths = joined_lengths(index.indexes, processor, config.shards.cache_folder)
        plan = train_plan(config, index, lengths)
        heldout_plan(config, index, lengths)  # training makes it too, and would stop where it can't
        told = forecast(plan, arguments.ranks)
    long = [index.key(number) for number in islice(plan.lengths.too_long(), arguments.name_long)]
    if arguments.json:
        print(json.dumps({**asdict(told), "advice": told.advice, "long_keys": long}))
    else:
        _show(told, long)
    if arguments.picture:
        from phi3v_dist.reports.plan import write_plan_picture

        write_plan_picture(told, arguments.picture)
    return 2 if told.violations else 0


def _show(told: "Forecast", long: list[str]) -> None:
    table("plan of an epoch", ["what", "value"], told.rows())
    fills = [(n, f"{x:.2%}") for n, x in told.fill_by_pack_tokens.items()]
    table("fill by packing.pack_tokens", ["tokens", "fill"], fills)
    for line in told.advice:
        say(f"advice: {line}")
    if told.long_documents:
        say(f"longer than a pack: {', '.join(long)}{', …' if told.long_documents > len(long) else ''}")
    for line in told.violations:
        say(f"VIOLATION {line}")
    say("it won't hang: no violation found" if not told.violations else "it would not train: see above")


def _parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--config", dest="recipe", required=True, help="recipe of the run")
    parser.add_argument("--ranks", type=count, default=8, help="number of GPUs (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the fill by pack length")
    parser.add_argument("--name-long", type=count, default=10, metavar="N", help="keys of N that are too long")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options laid over the recipe")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
