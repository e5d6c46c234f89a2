"""Download the pictures that a product table names by URL; started again it goes on where it was."""

import sys
from typing import TYPE_CHECKING

from phi3v_dist.config.loading import load_config
from phi3v_dist.console import CommandParser, run_command, say, table

if TYPE_CHECKING:
    from phi3v_dist.catalog.fetch import FetchSummary

TOO_MANY_FAILURES = 3


def main() -> int:
    """Fetch the pictures of a recipe's table; exit code 3 when more failed than it allows."""
    parser = CommandParser(
        description=__doc__,
        epilog="exit code 2: the input can't be used; 3: more failures than fetch.max_failed_share allows\n\n"
        "example:\n  python tools/fetch_products.py --config launch/recipes/phi3v_8gpu.yaml "
        "catalog.columns.image_path=imageurl fetch.contact=catalogue@example.com",
    )
    parser.add_argument("--config", required=True, metavar="RECIPE", help="YAML recipe (sections catalog and fetch)")
    parser.add_argument("--retry-rejected", action="store_true", help="fetch again what failed before")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options laid over the recipe's")
    arguments = parser.parse_intermixed_args()
    config = load_config(arguments.config, arguments.overrides).config
    from phi3v_dist.catalog.fetch import fetch_pictures  # late, so that --help comes at once

    summary = fetch_pictures(config.catalog, config.fetch, retry_rejected=arguments.retry_rejected)
    show(summary)
    if summary.failed_share > config.fetch.max_failed_share:
        allowed, found = config.fetch.max_failed_share, summary.failed_share
        print(
            f"ERROR {summary.folder / 'rejects.parquet'}: {found:.1%} of the URLs failed, fetch.max_failed_share "
            f"allows {allowed:.1%}. Start again with --retry-rejected, mend the URLs, or allow more.",
            file=sys.stderr,
        )
        return TOO_MANY_FAILURES
    return 0


def show(summary: "FetchSummary") -> None:
    """Print what became of every picture of the table."""
    rows = [*summary.counts.most_common(), ("pictures of the table", summary.counts.total())]
    table("pictures", ["became", "count"], [row for row in rows if row[1] or row is rows[-1]])
    megabytes = summary.num_bytes / 1e6
    say(f"now: {summary.num_pictures} pictures fetched, {megabytes:.1f} MB, by {summary.num_requests} requests")
    say(f"{summary.folder}: what is missing stands in rejects.parquet")


if __name__ == "__main__":
    sys.exit(run_command(main))
