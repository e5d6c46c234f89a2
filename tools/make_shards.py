"""Make shards from a product table: check products and pictures, write WebDataset tar files with an index."""

import sys

from phi3v_dist.config.loading import load_config
from phi3v_dist.console import CommandParser, run_command, say, table
from phi3v_dist.shards.placing import Part
from phi3v_dist.shards.write import ShardSummary, make_shards

TOO_MANY_REJECTS = 3


def main() -> int:
    """Make the shards a recipe asks for; exit code 3 when more products were rejected than it allows."""
    parser = CommandParser(
        description=__doc__,
        epilog="exit code 2: the input can't be used; 3: more rejects than catalog.max_reject_share allows\n\n"
        "example:\n  python tools/make_shards.py --config launch/recipes/demo_cpu.yaml shards.workers=2",
    )
    parser.add_argument("--config", required=True, metavar="RECIPE", help="YAML recipe (sections catalog and shards)")
    parser.add_argument("--add", action="store_true", help="one more delivery to a finished folder: new tar files")
    parser.add_argument(
        "--part", default="1/1", metavar="K/N", help="N such commands share the work, this one begins with its part"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options laid over the recipe's")
    arguments = parser.parse_intermixed_args()
    config = load_config(arguments.config, arguments.overrides).config
    summary = make_shards(config.catalog, config.shards, Part.parse(arguments.part), add=arguments.add)
    show(summary)
    if summary.reject_share > config.catalog.max_reject_share:
        allowed, found = config.catalog.max_reject_share, summary.reject_share
        print(
            f"ERROR {summary.rejects}: {found:.1%} of the products were rejected, "
            f"catalog.max_reject_share allows {allowed:.1%}. Mend the table, or allow more.",
            file=sys.stderr,
        )
        return TOO_MANY_REJECTS
    return 0


def show(summary: ShardSummary) -> None:
    """Print what became of every product of the table."""
    samples = [(f"{split} samples", count) for split, count in summary.counts.items()]
    rejects = [(f"rejected: {reason}", count) for reason, count in summary.reasons.items()]
    table("products", ["became", "count"], [*samples, *rejects, ("products of the table", summary.num_rows)])
    if summary.split_note:
        say(summary.split_note)
    if not summary.made_now:
        say("nothing to do: table and options are unchanged")
        say("pictures aren't compared; delete the folder to read them again")
    held = f"{summary.num_samples} samples in {summary.num_shards} tar files, {summary.num_bytes / 1e6:.1f} MB"
    say(f"{summary.folder}: {held}" + (f", {summary.num_deliveries} deliveries" if summary.num_deliveries > 1 else ""))


if __name__ == "__main__":
    sys.exit(run_command(main))
