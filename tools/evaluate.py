"""Score a model folder on held-out products: writes evaluation.json and predictions.jsonl."""

import argparse
import sys
from pathlib import Path

from phi3v_dist.console import CommandParser, count, run_command

EXAMPLE = "example:\n  python tools/evaluate.py runs/demo/export runs/demo/shards --split heldout"


def _parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("model_folder", type=Path, help="config.json, model.safetensors, tokenizer, processor")
    parser.add_argument("shards_folder", type=Path, help="index.parquet, manifest.json, {train,heldout}/*.tar")
    parser.add_argument("--split", choices=["heldout", "train"], default="heldout", help="default: heldout")
    parser.add_argument("--output", type=Path, help="folder to write to (default: the one that holds model_folder)")
    parser.add_argument("--max-new-tokens", type=count, default=96, help="longest answer (tokens, default: 96)")
    parser.add_argument("--batch-products", type=count, default=64, help="products answered at once (default: 64)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    return parser.parse_args()


def main() -> None:
    """Evaluate and print the table of scores."""
    options = _parse()
    from phi3v_dist.evaluation.run import evaluate_folder, print_scores

    evaluation = evaluate_folder(
        options.model_folder,
        options.shards_folder,
        options.split,
        output_folder=options.output,
        max_new_tokens=options.max_new_tokens,
        batch_products=options.batch_products,
        device=options.device,
    )
    print_scores(evaluation)


if __name__ == "__main__":
    sys.exit(run_command(main))
