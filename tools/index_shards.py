"""Make an index for WebDataset tar files that others made: pictures and a JSON per sample, under any member names.

The recipe's catalog.columns and catalog.rules say what the JSON's fields mean, as for a product table. Writes
index.parquet, rejects.parquet and manifest.json beside the tar files, which stay as they are.
"""

import sys

from phi3v_dist.config.loading import load_config
from phi3v_dist.console import CommandParser, run_command, say, table, tell_faults
from phi3v_dist.shards.adopt import adopt_tars

UNUSABLE = 2
_MOST_LINES = 20
EXAMPLE = (
    "example:\n  python tools/index_shards.py runs/demo/tars --config launch/recipes/demo_cpu.yaml "
    "catalog.columns.title=caption"
)


def main() -> int:
    """Index, and name what can't be used; exit code 2 and nothing written where there is any without ``--skip``."""
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("folder", help="folder with *.tar in it or below")
    parser.add_argument("--config", metavar="RECIPE", required=True, help="recipe with catalog.columns, catalog.rules")
    parser.add_argument(
        "--split-by", choices=["folder", "code"], metavar="folder|code",
        help="folder: train/ or heldout/ (val/, test/); code: by hash, as for a product table (default: as they lie)",
    )  # fmt: skip
    parser.add_argument("--skip", action="store_true", help="leave out what can't be used, and index the rest")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options laid over the recipe's")
    arguments = parser.parse_intermixed_args()
    catalog = load_config(arguments.config, arguments.overrides).config.catalog
    adoption = adopt_tars(arguments.folder, catalog, arguments.split_by, skip=arguments.skip)
    faults = [f"{fault.file}, {fault.value}: {fault.reason}" for fault in adoption.unusable]
    more = [f"… and {len(faults) - _MOST_LINES} more"] if len(faults) > _MOST_LINES else []
    tell_faults([*faults[:_MOST_LINES], *more])
    if not adoption.written:
        say("nothing was written: mend catalog.columns or catalog.rules, or leave these out with --skip")
        return UNUSABLE
    rows = [*adoption.counts.items(), ("can't be used", len(adoption.unusable))]
    table(f"indexed, split by {adoption.split_by}", ["split", "samples"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
