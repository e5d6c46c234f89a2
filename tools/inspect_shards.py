"""Show what a shard folder holds, and on request whether every byte is still what was written."""

import argparse
import sys

from phi3v_dist.config.loading import load_config
from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.console import CommandParser, run_command, say, table, tell_faults
from phi3v_dist.shards import look
from phi3v_dist.shards.index import ShardIndex, load_index
from phi3v_dist.shards.manifest import read_manifest, unchecked_deliveries
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.shards.statistics import QUANTILE_NAMES, count_rows, histogram_rows, picture_rows, price_rows
from phi3v_dist.shards.verify import verify_shards

EXAMPLE = "example:\n  python tools/inspect_shards.py runs/demo/shards --verify"


def main() -> int:
    """Print what was asked for, statistics where nothing was; exit code 2 and a line per damage."""
    arguments = _parse()
    if arguments.verify:
        if found := tell_faults(verify_shards(arguments.folder)):
            return found
        say("every file and every sample is as it was written")
    index = load_index(arguments.folder)
    reader = ShardReader(index)
    if arguments.sample is not None or arguments.key is not None:
        sample = look.read_sample(reader, look.number_of(index, arguments.sample, arguments.key))
        table("sample", ["field", "value"], look.sample_rows(reader, sample))
        for path in look.save_pictures(sample, arguments.save) if arguments.save else ():
            say(f"wrote {path}")
    elif arguments.grid:
        damages = look.write_grid(reader, look.spread(index), arguments.grid)
        say(f"wrote {arguments.grid}")
        return tell_faults(damages)
    elif arguments.lengths:
        _show_lengths(index, arguments.recipe)
    else:
        numbers = ["count", "mean", *QUANTILE_NAMES]
        table("samples", ["split", "category", "count"], count_rows(index))
        for title, rows in (("prices", price_rows(index)), ("pictures", picture_rows(index))):
            table(title, ["", *numbers], [(name, count, *(f"{x:.4g}" for x in rest)) for name, count, *rest in rows])
        if told := unchecked_deliveries(read_manifest(index.folder)):
            say(told)
    return 0


def _show_lengths(index: ShardIndex, recipe: str | None) -> None:
    from phi3v_dist.documents.length_tables import length_tables  # after --help: it is slow to import

    config = load_config(recipe, []).config if recipe else None
    tables = length_tables(index, config and config.model.folder, config.documents if config else DocumentOptions())
    what = "tokens" if recipe else "tokens of the pictures alone (--config RECIPE counts the texts too)"
    for told in tables:
        title = f"{what}, at most {told.num_crops} crops a picture: {told.tokens.sum():,} in all"
        table(title, ["tokens", "samples", ""], histogram_rows(told.tokens))
        table(f"crops, at most {told.num_crops} a picture", ["crops", "samples", ""], histogram_rows(told.crops))


def _parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("folder", help="folder or URL that tools/make_shards.py or tools/index_shards.py wrote")
    parser.add_argument("--verify", action="store_true", help="compare all hashes; exit code 2 where one differs")
    parser.add_argument("--sample", type=int, metavar="N", help="show a sample by its number, from 0")
    parser.add_argument("--key", help="show a sample by its key or product code")
    parser.add_argument("--save", metavar="FOLDER", help="with --sample or --key: write its pictures there")
    parser.add_argument("--grid", metavar="PNG", help="write a picture of up to 100 samples, evenly chosen")
    parser.add_argument("--lengths", action="store_true", help="histograms of tokens and crops, for 16 and 4 crops")
    parser.add_argument("--config", dest="recipe", metavar="RECIPE", help="with --lengths: its model counts texts too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
