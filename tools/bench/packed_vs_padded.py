"""Training throughput of packs beside padded batches: real tokens per second of the demo model on a CPU.

A step of each way trains the same documents: forward and backward of all its packs or batches, then one update of
AdamW. A way differs in nothing but which documents stand together and what is filled up. It is the same training, and
that is held: equal supervised tokens, the same loss and gradient norm from the same weights.

- packs: `packing/subset.py`, at most --pack-tokens each, nothing padded.
- padded, random order: documents as a plain loader gives them; a batch takes the next ones as long as its documents
  times its longest stay within --pack-tokens, and fills each up to the longest.
- padded, sorted by length: the same after sorting all documents of the step, the least padding that such batches have.

Plain PyTorch in float32, without DeepSpeed. Our model drops the padding of a two-dimensional batch before anything
runs, so a padded batch runs here as documents filled up with the end token, laid end to end, cu_seqlens at multiples
of their length: the same kernels, and the arithmetic of a padded batch that computes its padding as it computes
tokens. Labels there are ignored. Where padding often costs more, it costs nothing here on any side: logits are made
for supervised positions alone, crops are never padded. Not timed: packing and collating, which loader processes do.
"""

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from phi3v_dist.console import CommandParser, run_command, say, table
from phi3v_dist.errors import RunError

if TYPE_CHECKING:
    from packed_vs_padded_documents import Way

    from phi3v_dist.model.phi3v import Phi3VForCausalLM

MOST_DIFFERENCE_OF_LOSS = 1e-6  # of the whole: float32 sums in another order
MOST_DIFFERENCE_OF_GRADIENT = 1e-4
COLUMNS = {
    "spread": "lengths",
    "way": "way",
    "batches": "batches",
    "padding": "padding, %",
    "tokens_per_second": "real tokens/s",
    "packs_to_this": "packs ÷ this",
}


def main() -> None:
    """Measure and print."""
    arguments = _parse()
    load = os.getloadavg()[0]
    from packed_vs_padded_documents import SPREADS, DemoDocuments

    demo = DemoDocuments(arguments.seed)
    rows = []
    for spread in SPREADS:
        documents = demo.draw(spread, arguments.documents)
        lengths = sorted(len(document.input_ids) for document in documents)
        if lengths[-1] > arguments.pack_tokens:
            what = f"a document of the {spread} lengths has {lengths[-1]} tokens"
            raise RunError(what, where="--pack-tokens", value=arguments.pack_tokens, mend="Give at least as many.")
        if not arguments.json:
            middle = ", ".join(str(lengths[len(lengths) * part // 100]) for part in (5, 50, 95))
            say(f"{spread}: {len(lengths)} documents, {sum(lengths):,} tokens, {lengths[0]} to {lengths[-1]} "
                f"(5, 50, 95 %: {middle})")  # fmt: skip
        compared = _compare(spread, demo.ways(documents, arguments.pack_tokens), arguments)
        rows += compared
        if arguments.json:
            for row in compared:
                print(json.dumps(row | {"load": load}), flush=True)
    if arguments.json:
        return
    say(f"load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; 1 thread; best of {arguments.repeats}")
    table("training, per second of processor time", list(COLUMNS.values()), map(_words, rows))


def _parse() -> argparse.Namespace:
    parser = CommandParser(
        description=__doc__,
        epilog="example:\n  OMP_NUM_THREADS=1 python tools/bench/packed_vs_padded.py --documents 64 --repeats 1",
    )
    parser.add_argument("--documents", type=int, default=512, help="of a step (default: %(default)s)")
    parser.add_argument("--pack-tokens", type=int, default=4096, help="most of pack or batch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="steps of each way, in turn (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of documents and weights (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON lines")
    arguments = parser.parse_args()
    if min(arguments.documents, arguments.repeats) < 1:
        parser.error("--documents and --repeats are 1 or more")
    return arguments


def _compare(spread: str, ways: "list[Way]", arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All ways in turn, so that a warm or a busy machine favours none."""
    import torch
    from packed_vs_padded_documents import build_model

    torch.set_num_threads(1)
    _hold_to_same_training(ways, arguments.seed)
    models = [build_model(arguments.seed) for _ in ways]
    optimizers = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], fused=True) for m in models]
    seconds = [float("inf")] * len(ways)
    for _ in range(arguments.repeats):
        for number, (way, model, optimizer) in enumerate(zip(ways, models, optimizers, strict=True)):
            started = time.process_time()
            optimizer.zero_grad()
            _forward_and_backward(model, way)
            optimizer.step()
            seconds[number] = min(seconds[number], time.process_time() - started)
    return [
        {
            "spread": spread,
            "way": way.name,
            "batches": len(way.batches),
            "tokens": way.real_tokens,
            "padding": 1 - way.real_tokens / way.laid_tokens,
            "seconds": taken,
            "tokens_per_second": way.real_tokens / taken,
            "packs_to_this": taken / seconds[0],
        }
        for way, taken in zip(ways, seconds, strict=True)
    ]


def _hold_to_same_training(ways: "list[Way]", seed: int) -> None:
    """Stop unless each way's first step has the supervised tokens, the loss and the gradient norm of the first's."""
    import torch
    from packed_vs_padded_documents import build_model

    found = []
    for way in ways:
        model = build_model(seed)
        loss = _forward_and_backward(model, way)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((way.supervised, loss, float(torch.nn.utils.get_total_norm(gradients))))
    supervised, loss, norm = found[0]
    for way, (its_supervised, its_loss, its_norm) in zip(ways, found, strict=True):
        told = f"{way.name}: {(its_supervised, its_loss, its_norm)}, {ways[0].name}: {found[0]}"
        assert its_supervised == supervised, f"not the same supervised tokens: {told}"
        assert abs(its_loss - loss) <= MOST_DIFFERENCE_OF_LOSS * loss, f"not the same loss: {told}"
        assert abs(its_norm - norm) <= MOST_DIFFERENCE_OF_GRADIENT * norm, f"not the same gradient: {told}"


def _forward_and_backward(model: "Phi3VForCausalLM", way: "Way") -> float:
    """Loss per supervised token of a step; its gradient is added up in the parameters."""
    import torch

    from phi3v_dist.training.step import forward

    total = torch.zeros((), dtype=torch.float64)
    for batch in way.batches:
        loss = forward(model, batch, torch.float32)
        (loss / way.supervised).backward()
        total += loss.detach()
    return float(total) / way.supervised


def _words(row: dict[str, Any]) -> list[str]:
    shown = {
        "padding": f"{100 * row['padding']:.1f}",
        "tokens_per_second": f"{row['tokens_per_second']:,.0f}",
        "packs_to_this": f"{row['packs_to_this']:.2f}",
    }
    return [str(shown.get(name, row[name])) for name in COLUMNS]


if __name__ == "__main__":
    sys.exit(run_command(main))
