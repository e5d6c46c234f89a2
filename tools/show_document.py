"""Show one sample as training reads it: its tokens, which of them are learned, and its crops as one picture."""

import argparse
import sys
from pathlib import Path

from phi3v_dist.config.loading import load_config
from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.console import CommandParser, out, run_command, say

EXAMPLE = (
    "example:\n  python tools/show_document.py --config launch/recipes/demo_cpu.yaml --sample 7 --crops runs/demo/7.png"
)


def _parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--config", metavar="RECIPE", help="recipe that names shards, model folder and template")
    parser.add_argument("--shards", metavar="FOLDER", help="in place of a recipe: what tools/make_shards.py wrote")
    parser.add_argument(
        "--model", metavar="FOLDER", help="in place of a recipe: tokenizer.json, preprocessor_config.json"
    )
    parser.add_argument("--sample", type=int, required=True, metavar="N", help="number of the sample, from 0")
    parser.add_argument("--crops", type=Path, metavar="PNG", help="picture to write the crops to")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options laid over the recipe's")
    arguments = parser.parse_intermixed_args()
    folders = [arguments.shards, arguments.model]
    if not (all(folders) if arguments.config is None else not any(folders)):
        parser.error("name a --config, or both --shards and --model")
    if arguments.config is None and arguments.overrides:
        parser.error("key=value needs a --config")
    return arguments


def main() -> None:
    """Load, print, write the picture."""
    arguments = _parse()
    if arguments.config is None:
        shards, model, options = arguments.shards, arguments.model, DocumentOptions()
    else:
        config = load_config(arguments.config, arguments.overrides).config
        shards, model, options = config.shards.folder, config.model.folder, config.documents
    from phi3v_dist.documents.show import LEGEND, load_shown  # after --help: it imports torch

    shown = load_shown(shards, model, arguments.sample, options)
    say(shown.summary())
    out.print(shown.tokens())
    say(LEGEND)
    if arguments.crops is not None:
        shown.write_crops(arguments.crops)
        say(f"{arguments.crops}: global view at the left, then the crops")


if __name__ == "__main__":
    sys.exit(run_command(main))
