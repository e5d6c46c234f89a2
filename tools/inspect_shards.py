"""Show what a shard folder holds, and on request whether every byte is still what was written."""

import argparse
import sys

from phi3v_dist.console import run_command, say, table
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.verify import verify_shards

DAMAGED = 2


def main() -> int:
    """Print samples per split and category; with ``--verify`` exit code 2 and a line per damage."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python tools/inspect_shards.py runs/demo/shards --verify",
    )
    parser.add_argument("folder", help="folder that tools/make_shards.py wrote")
    parser.add_argument("--verify", action="store_true", help="compare all hashes; exit code 2 where one differs")
    arguments = parser.parse_args()
    if arguments.verify:
        damages = verify_shards(arguments.folder)
        for damage in damages:
            print(f"ERROR {damage}", file=sys.stderr)
        if damages:
            return DAMAGED
        say("every file and every sample is as it was written")
    index = load_index(arguments.folder)
    table("samples", ["split", "category", "count"], [*index.category_counts(), ("both", "all", len(index))])
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
