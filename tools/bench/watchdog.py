"""What the watchdog costs a run that doesn't hang: a mark, beside a call that does nothing."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from phi3v_dist.cluster.watchdog import Watchdog
from phi3v_dist.cluster.who import ALONE
from phi3v_dist.console import CommandParser, run_command, table

_CALLS = 1000


def main() -> None:
    """Measure and print a table; the quickest of the repeats counts."""
    parser = CommandParser(
        description=__doc__,
        epilog="example:\n  python tools/bench/watchdog.py --repeats 50",
    )
    parser.add_argument("--repeats", type=int, default=50, help=f"of {_CALLS} calls each (default: %(default)s)")
    repeats = parser.parse_args().repeats
    samples = list(range(16))
    with tempfile.TemporaryDirectory() as folder:
        watchdog = Watchdog(Path(folder), ALONE, 600.0)
        ways = {"a mark": watchdog.at, "a call that does nothing": _nothing}
        rows = [
            (name, f"{1e6 * min(_seconds(way, samples) for _ in range(repeats)):.2f}") for name, way in ways.items()
        ]
    table("watchdog", ["what", "µs"], rows)


def _seconds(way: Callable[..., object], samples: list[int]) -> float:
    started = time.perf_counter()
    for number in range(_CALLS):
        way("forward", step=number, micro_step=1, samples=samples)
    return (time.perf_counter() - started) / _CALLS


def _nothing(phase: str, *, step: int, micro_step: int, samples: list[int]) -> None:
    return None


if __name__ == "__main__":
    sys.exit(run_command(main))
