"""How long crops take to finish: by table and integer view (ours), and by interpolating normalised floats (reference).

Both in one run and in turn, and the quickest of many runs counts, so that a busy machine is unfair to neither. CPU:
processor time; CUDA: wall time around a synchronisation.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from phi3v_dist.console import CommandParser, run_command, say, table

TESTS = Path(__file__).parents[2] / "tests/documents"
CASES = {
    "10 pictures of 2 × 2 crops, 56 px": ([(2, 2)] * 10, 56),
    "10 pictures of mixed grids, 56 px": ([(2, 2), (1, 3), (2, 1), (2, 2), (3, 1)] * 2, 56),
    "3 pictures of 4 × 4 crops, 336 px": ([(4, 4)] * 3, 336),
}


def main() -> None:
    """Measure and print a table."""
    parser = CommandParser(
        description=__doc__,
        epilog="example:\n  OMP_NUM_THREADS=1 python tools/bench/crops.py --repeats 30",
    )
    parser.add_argument("--repeats", type=int, default=30, help="runs of each way, in turn (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    arguments = parser.parse_args()
    import torch

    sys.path.append(str(TESTS))
    from reference_crops import finish_by_interpolation

    from phi3v_dist.documents.crops import finish_crops

    rows = []
    for name, (grids, side) in CASES.items():
        count = sum(h * w for h, w in grids)
        crops = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=arguments.device)
        for dtype in (torch.float32, torch.bfloat16):
            ways = [partial(way, crops, grids, dtype) for way in (finish_by_interpolation, finish_crops)]
            before, ours = _milliseconds(ways, arguments.repeats, arguments.device)
            rows.append((name, str(dtype)[6:], f"{before:.2f}", f"{ours:.2f}", f"{before / ours:.2f}"))
    say(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.device}, best of {arguments.repeats}"
    )
    table(
        "finishing crops: interpolated floats before, table and integer view now",
        ["pictures", "precision", "before, ms", "now, ms", "ratio"],
        rows,
    )


def _milliseconds(ways: list[Callable[[], object]], repeats: int, device: str) -> list[float]:
    """Shortest time of each way."""
    import torch

    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, found in zip(ways, seconds, strict=True):
            started = clock()
            way()
            if device == "cuda":
                torch.cuda.synchronize()
            found.append(clock() - started)
    return [min(found) * 1000 for found in seconds]


if __name__ == "__main__":
    sys.exit(run_command(main))
