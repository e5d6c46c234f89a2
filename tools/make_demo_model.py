"""Write a tiny Phi-3-Vision with random weights and its own tokenizer, in the official layout."""

import sys
import tempfile
from pathlib import Path

from phi3v_dist.catalog.tables import read_table
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.console import CommandParser, run_command, say
from phi3v_dist.files import write_json

EXAMPLE = "example:\n  python tools/make_demo_model.py --catalog runs/demo/catalog/products.csv runs/demo/base"


def main() -> None:
    """Parse, call, print."""
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--catalog", type=Path, required=True, help="demo catalogue whose words the tokenizer learns")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: %(default)s)")
    parser.add_argument("folder", type=Path, help="model folder to write; one that is there stays as it is")
    args = parser.parse_args()
    if (args.folder / "config.json").exists():
        say(f"{args.folder} is there already")
        return
    texts = _texts(args.catalog)
    from phi3v_dist.documents.demo_tokenizer import build_demo_tokenizer  # after --help: these import torch
    from phi3v_dist.model.demo import demo_config, demo_model, demo_preprocessor_config
    from phi3v_dist.model.folder import write_folder

    tokenizer = build_demo_tokenizer(texts)
    ids = {token: tokenizer.token_to_id(token) for token in ("<s>", "<|endoftext|>", "<|end|>")}
    config = demo_config(tokenizer.get_vocab_size(), ids)
    model = demo_model(config, args.seed)
    with tempfile.TemporaryDirectory() as side_files:
        write_json(f"{side_files}/config.json", config)
        write_json(f"{side_files}/preprocessor_config.json", demo_preprocessor_config())
        tokenizer.save(f"{side_files}/tokenizer.json")
        tensors = ((name, tensor.bfloat16()) for name, tensor in model.state_dict().items())
        write_folder(args.folder, tensors, side_files, end_ids=(ids["<|endoftext|>"], ids["<|end|>"]))
    say(
        f"{args.folder}: {sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer.get_vocab())} tokens"
    )


def _texts(table: Path) -> list[str]:
    rows = read_table(CatalogOptions(table=str(table), format="csv"))
    return [f"Product: {row.title}, Category: {row.category}, Full Price:" for row in rows]


if __name__ == "__main__":
    sys.exit(run_command(main))
