"""A command in which nothing moves ends, also when its thread hangs in a call that can't be stopped."""

import subprocess
import sys

PROGRAM = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from phi3v_dist.catalog.fetch_watchdog import Watchdog
with Watchdog({stall}, "runs/fetched") as watchdog:
    pool = ThreadPoolExecutor()
    for _ in range(8):
        time.sleep(0.1)
        watchdog.beat()
    print("moved", flush=True)
    if {hangs}:
        pool.submit(time.sleep, 60)
        pool.shutdown()
"""


def run(stall: float, hangs: bool) -> subprocess.CompletedProcess:
    program = PROGRAM.format(stall=stall, hangs=hangs)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)


def test_a_hang_ends_with_one_line() -> None:
    done = run(0.5, True)
    assert done.returncode == 2 and done.stdout == "moved\n"
    assert done.stderr.startswith("ERROR runs/fetched: nothing has moved") and done.stderr.count("\n") == 1


def test_what_moves_slowly_is_left_alone() -> None:
    done = run(0.5, False)
    assert (done.returncode, done.stderr) == (0, "")
