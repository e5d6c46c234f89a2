"""Write a model folder that others load from a checkpoint of a run."""

import sys
from pathlib import Path

from phi3v_dist.console import CommandParser, run_command, say

EXAMPLE = "example:\n  python tools/consolidate.py runs/demo/train runs/demo/export"


def main() -> None:
    """Parse, call, print."""
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("run_folder", type=Path, help="run folder of launch/train.py: checkpoints/ and base are read")
    parser.add_argument("target", type=Path, help="model folder to write; must not exist yet")
    parser.add_argument("--step", default="newest", metavar="N|newest|best", help="which checkpoint (default: newest)")
    args = parser.parse_args()
    from phi3v_dist.checkpoints.consolidate import consolidate  # after --help: it imports torch

    export = consolidate(args.run_folder, args.target, args.step)
    for damage in export.passed:
        say(f"{damage}; passed over")
    say(f"{export.folder}: {export.parameters:,} parameters from {export.checkpoint.folder}")


if __name__ == "__main__":
    sys.exit(run_command(main))
