"""The watch over a run, from the ranks' first meeting to their last.

Enters: the options and who this rank is, once the ranks have met. Leaves: a running ``Watchdog``; what it explains is
also told to the batch script (attempts.py), which starts the job again. It begins before anything is checked or read:
a rank can freeze there too, and the others would wait for it as long as a collective may take.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from phi3v_dist.cluster.hang import Hang
from phi3v_dist.cluster.process_group import from_rank_0, together
from phi3v_dist.cluster.watchdog import Watchdog
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.options import RunConfig
from phi3v_dist.errors import LostRankError
from phi3v_dist.training.attempts import blame_node, make_run_folder, tell_verdict

PATIENCE = 3  # times training.hang_minutes, for what takes longer than a micro-step
START_MINUTES = 10.0  # ranks of a busy machine may be minutes apart while they start, however short a micro-step is


def start_patience(config: RunConfig) -> float:
    """What marks before the first step get, times ``training.hang_minutes``."""
    return max(PATIENCE, START_MINUTES / max(config.training.hang_minutes, 1e-6))


def timeout_minutes(config: RunConfig) -> float:
    """How long a collective may take: longer than the watchdog waits, which can say more."""
    return max(START_MINUTES, 2 * PATIENCE * config.training.hang_minutes)


@contextlib.contextmanager
def watched(config: RunConfig, who: ClusterInfo) -> Iterator[Watchdog]:
    """Watch this rank. All ranks call it; raises ``RunError`` on all where the run folder can't be made."""
    run_folder = Path(config.run_folder)
    together(lambda: make_run_folder(run_folder))
    # A folder for this start alone: a run may hang again.
    hangs = run_folder / "hangs"
    folder = hangs / from_rank_0(time.strftime("%Y%m%d-%H%M%S"))

    def on_hang(hang: Hang) -> None:
        tell_verdict(run_folder, who, LostRankError.exit_code, hang.text)
        # A rank in another collective than the others is a fault of the code, not of its node.
        for node in hang.nodes if hang.kind in ("silent", "busy") else ():
            blame_node(run_folder, who, node, hang.text)

    watchdog = Watchdog(folder, who, config.training.hang_minutes * 60, on_hang)
    if config.training.hang_minutes:
        watchdog.start()
        watchdog.at("checking", patience=start_patience(config))
    try:
        yield watchdog
    finally:
        watchdog.stop()
        for empty in (hangs, run_folder):  # a start that was refused leaves nothing
            with contextlib.suppress(OSError):
                empty.rmdir()
