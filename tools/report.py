"""Write report.html into a shard folder or a run's folder: the page of what lies there.

Of shards: counts, categories, prices, pictures, texts, tokens, rejects with their pictures. Of a run: curves, scores,
held-out pictures with truth and answer. Both are one file that needs no other.
"""

import sys
from pathlib import Path

from phi3v_dist.console import CommandParser, run_command, say

EXAMPLE = "example:\n  python tools/report.py runs/demo/shards"


def main() -> None:
    """Write the page and say where it is."""
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument(
        "folder", type=Path,
        help="shards (manifest.json); or a run: holds train/, and if there evaluation.json, predictions.jsonl, shards/",
    )  # fmt: skip
    parser.add_argument(
        "--config", dest="recipe", metavar="RECIPE", help="for shards: recipe whose model counts the texts' tokens too"
    )
    options = parser.parse_args()
    from phi3v_dist.reports.folder import write_report

    path = write_report(options.folder, options.recipe)
    say(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    sys.exit(run_command(main))
