"""Time and memory of the model's kernels at true width: the loss over 32K positions, attention at head size 96.

Each kernel that runs here stands beside a baseline of the same run: all logits at once for the loss, SDPA document by
document for attention. CUDA alone; where there is none the command says so.
"""

import sys
from collections.abc import Callable
from functools import partial

from phi3v_dist.console import CommandParser, run_command, say, table
from phi3v_dist.errors import HardwareError

HIDDEN, VOCABULARY, HEADS, HEAD_DIM = 3072, 32_064, 32, 96
DOCUMENTS = (2509, 2509, 2509, 665)  # an 8K pack of pictures of 16 crops


def main() -> None:
    """Measure and print two tables."""
    parser = CommandParser(
        description=__doc__,
        epilog="example:\n  python tools/bench/kernels.py --positions 32768 --repeats 20",
    )
    parser.add_argument("--positions", type=int, default=32_768, help="supervised positions (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="runs, the quickest counts (default: %(default)s)")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise HardwareError("there is no CUDA device", where="this machine", mend="Run it on a GPU node.")
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    header = ["kernel", "forward and backward, ms", "baseline ÷ this", "peak memory beside the inputs, MB"]
    table(f"loss, {arguments.positions} positions", header, _rows(_losses(arguments.positions), arguments.repeats))
    table(f"attention, documents of {DOCUMENTS} tokens", header, _rows(_attentions(), arguments.repeats))


def _losses(positions: int) -> dict[str, Callable[[], object]]:
    import torch
    import torch.nn.functional as F

    from phi3v_dist.errors import HardwareError
    from phi3v_dist.model.loss import LOSSES, choose_loss

    hidden = torch.randn(positions, HIDDEN, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = (torch.randn(VOCABULARY, HIDDEN, device="cuda", dtype=torch.bfloat16) / 50).requires_grad_()
    targets = torch.randint(VOCABULARY, (positions,), device="cuda")

    def step(loss: Callable[..., torch.Tensor]) -> None:
        loss(hidden, weight, targets).backward()
        hidden.grad = weight.grad = None

    ways = {"all logits at once": partial(step, lambda h, w, t: F.cross_entropy((h @ w.T).float(), t, reduction="sum"))}
    for name, loss in LOSSES.items():
        try:
            choose_loss(name, "cuda", torch.bfloat16)
            ways[name] = partial(step, loss)
        except HardwareError as error:
            say(str(error))
    return ways


def _attentions() -> dict[str, Callable[[], object]]:
    import torch

    from phi3v_dist.errors import HardwareError
    from phi3v_dist.model.attention import KERNELS, Borders, choose_kernel

    shape = (3, sum(DOCUMENTS), HEADS, HEAD_DIM)
    inputs = [x.requires_grad_() for x in torch.randn(shape, device="cuda", dtype=torch.bfloat16)]
    ends = torch.tensor([0, *DOCUMENTS], device="cuda").cumsum(0).int()
    borders = Borders(ends, DOCUMENTS)

    def step(kernel: Callable[..., torch.Tensor]) -> None:
        kernel(*inputs, borders, HEAD_DIM**-0.5).sum().backward()
        for one in inputs:
            one.grad = None

    ways = {"sdpa": partial(step, KERNELS["sdpa"])}
    for name in KERNELS:
        try:
            choose_kernel(name, "cuda", torch.bfloat16)
            ways[name] = partial(step, KERNELS[name])
        except HardwareError as error:
            say(str(error))
    return ways


def _rows(ways: dict[str, Callable[[], object]], repeats: int) -> list[tuple[str, ...]]:
    """Name, time, ratio to the first, peak; all ways in turn, so that a warm device favours none."""
    import torch

    best, peaks = dict.fromkeys(ways, float("inf")), dict.fromkeys(ways, 0)
    for _ in range(repeats):
        for name, way in ways.items():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            way()
            end.record()
            torch.cuda.synchronize()
            best[name] = min(best[name], begin.elapsed_time(end))
            peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated() - before)
    baseline = next(iter(best.values()))
    return [(n, f"{best[n]:.2f}", f"{baseline / best[n]:.2f}", f"{peaks[n] / 1e6:.0f}") for n in ways]


if __name__ == "__main__":
    sys.exit(run_command(main))
