"""One rank that marks its way through some steps, until one of them goes wrong as its case says.

Arguments: folder for the reports, case, guilty rank. Started with the environment that srun gives a task.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from phi3v_dist.cluster.process_group import process_group, sum_over_ranks
from phi3v_dist.cluster.watchdog import Watchdog
from phi3v_dist.cluster.who import who_am_i

LIMIT_SECONDS = 3.0
WRONG_STEP = 2
FOR_EVER_SECONDS = 60


def asleep():
    threading.Thread(target=time.sleep, args=(FOR_EVER_SECONDS,), name="a thread beside", daemon=True).start()
    time.sleep(FOR_EVER_SECONDS)


def holds_pythons_lock():
    ctypes.PyDLL(None).sleep(FOR_EVER_SECONDS)


def frozen():
    os.kill(os.getpid(), signal.SIGSTOP)


def on_hang(hang):
    (hang.folder / "on_hang.txt").write_text(f"{hang.kind} {hang.ranks} {hang.nodes}")
    if sys.argv[2] == "asleep":
        raise RuntimeError("the hook fails")


def one_step(case, guilty):
    reduced = torch.ones(4)
    if case == "asleep":
        dist.all_reduce(reduced, async_op=True).wait()
    elif not (guilty and case == "skips"):
        sum_over_ranks(reduced)
    dist.barrier()


def main():
    folder, case, guilty_rank = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    who = who_am_i()
    watchdog = Watchdog(folder, who, LIMIT_SECONDS, on_hang)
    with process_group(who, "gloo", 2.0):
        watchdog.start()
        try:
            steps(watchdog, who, case, guilty_rank)
        finally:
            watchdog.stop()


def steps(watchdog, who, case, guilty_rank):
    for step in range(WRONG_STEP + 1):
        watchdog.at("forward", step=step, micro_step=1, samples=[f"sample-{who.rank}-{step}", 7])
        wrong = step == WRONG_STEP and case != "well"
        if wrong and who.rank == guilty_rank and case in globals():
            globals()[case]()
        one_step(case if wrong else "well", who.rank == guilty_rank)
        if case == "well":
            time.sleep(0.5 * LIMIT_SECONDS)
    watchdog.at("end", patience=2.0)
    time.sleep(1.3 * LIMIT_SECONDS)


if __name__ == "__main__":
    main()
