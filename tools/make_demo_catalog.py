"""Draw the demo catalogue: FOLDER/products.csv and FOLDER/images/."""

import sys
from pathlib import Path

from phi3v_dist.catalog.demo import make_demo_catalog
from phi3v_dist.console import CommandParser, run_command, say


def main() -> None:
    """Parse the command line, draw, name what was made."""
    parser = CommandParser(
        description=__doc__,
        epilog="example:\n  python tools/make_demo_catalog.py --products 2600 --seed 0 runs/demo/catalog",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the catalogue goes")
    parser.add_argument("--products", type=int, default=2600, help="rows of the table (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same catalogue (default: %(default)s)")
    arguments = parser.parse_args()
    drawn = make_demo_catalog(arguments.folder, arguments.products, arguments.seed)
    state = "drawn" if drawn else "already there"
    say(f"{arguments.folder / 'products.csv'}: {arguments.products} products {state}")


if __name__ == "__main__":
    sys.exit(run_command(main))
