"""Write a run's page, FOLDER/report.html: curves, scores, held-out pictures with truth and answer."""

import argparse
import sys
from pathlib import Path

from phi3v_dist.console import run_command, say

EXAMPLE = "example:\n  python tools/report.py runs/demo"


def main() -> None:
    """Write the page and say where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds train/; if there: evaluation.json, predictions.jsonl, shards/")
    options = parser.parse_args()
    from phi3v_dist.reports.run import write_run_report

    path = write_run_report(options.folder)
    say(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    sys.exit(run_command(main))
