"""Say whether a model folder is whole: files, names, shapes, types, values, tokenizer, known side files."""

import sys
from pathlib import Path

from phi3v_dist.console import CommandParser, progress, run_command, say, table

EXAMPLE = "exit code 0: whole, notices or not; 2: not whole\n\nexample:\n  python tools/check_model.py runs/demo/base"


def main() -> int:
    """Parse, call, print."""
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("folder", type=Path, help="model folder: official, exported, or the demo's")
    parser.add_argument("--quick", action="store_true", help="don't read the values (8.3 GB in the official folder)")
    args = parser.parse_args()
    from phi3v_dist.model import check  # after --help: these import torch
    from phi3v_dist.model.folder import iterate_weights, shapes_in

    found = check.check_folder(args.folder)
    found.append(check.finding("tokenizer, crops", lambda: _fit(args.folder)))
    if not args.quick and all(part.state != check.FAULT for part in found):
        tensors = progress(iterate_weights(args.folder), "tensors", len(shapes_in(args.folder)))
        found.append(check.check_values(tensors))
    table(str(args.folder), ["part", "state", "what was found"], [(f.part, f.state, f.told) for f in found])
    faults = [part.part for part in found if part.state == check.FAULT]
    unread = " (values not read)" if args.quick else ""
    say(f"{args.folder} is NOT whole: {', '.join(faults)}" if faults else f"{args.folder} is whole{unread}")
    return 2 if faults else 0


def _fit(folder: Path) -> str:
    from phi3v_dist.config.options import DocumentOptions
    from phi3v_dist.documents.processor import DocumentProcessor
    from phi3v_dist.model.check import check_fit
    from phi3v_dist.model.folder import read_config

    processor = DocumentProcessor.from_folder(folder, DocumentOptions())
    return check_fit(read_config(folder), processor.template.vocabulary_size, processor.crop_size, folder)


if __name__ == "__main__":
    sys.exit(run_command(main))
