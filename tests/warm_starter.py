"""Forks the ranks of tests from one process that has imported what each of them would.

Enters: per line of standard input one start as JSON: ``script``, and its ``ranks``, each with arguments, environment,
working folder and the files for its two outputs. Leaves: a line with their process ids at once, and one with the exit
code and seconds of each when all have ended. A rank of its own would spend ten seconds on imports, of torch, DeepSpeed
and torch's compiler, and a second or two on what a test looks at; a fork is the same script as ``__main__``, with its
own environment, outputs and end.
"""

import ctypes
import json
import os
import runpy
import sys
import time
from pathlib import Path

import deepspeed
import deepspeed.runtime.zero.muon.original_muon  # noqa: F401  DeepSpeed asks for it whatever the optimizer
import pyarrow.dataset  # noqa: F401  parquet's reader asks for it, and pandas

import phi3v_dist.training.loop
import phi3v_dist.training.preflight  # noqa: F401

ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of prctl: what a dead rank leaves behind is still found below this process


def become(script: str, rank: dict) -> None:
    """Make this fork look as if Python had just been started with ``script``."""
    for target, file in enumerate((os.devnull, rank["out"], rank["err"])):
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, target)
        os.close(handle)
    os.environ.clear()
    os.environ.update(rank["environment"])
    os.chdir(rank["folder"])
    sys.argv = [script, *rank["arguments"]]
    sys.path[0] = str(Path(script).parent.absolute())


def wait_for(ranks: list[int]) -> list[tuple[int, float]]:
    """Exit code and seconds of each; orphans that ended are cleared away too."""
    started, ends = time.monotonic(), {}
    while ends.keys() != set(ranks):
        ended, status = os.wait()
        if ended in ranks:
            ends[ended] = (os.waitstatus_to_exitcode(status), time.monotonic() - started)
    return [ends[rank] for rank in ranks]


def main() -> None:
    """Start whatever is asked for; a fork returns from here into its script, and ends as Python ends."""
    ctypes.CDLL(None).prctl(ADOPT_ORPHANS, 1, 0, 0, 0)
    print(json.dumps("warm"), flush=True)
    for line in sys.stdin:
        start, pids = json.loads(line), []
        for rank in start["ranks"]:
            if (pid := os.fork()) == 0:
                become(start["script"], rank)
                runpy.run_path(start["script"], run_name="__main__")
                return
            pids.append(pid)
        print(json.dumps(pids), flush=True)
        print(json.dumps(wait_for(pids)), flush=True)


if __name__ == "__main__":
    main()
