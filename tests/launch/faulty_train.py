"""launch/train.py with a fault on one rank, for tests of how a run ends.

``FAULT``: what:rank:step, as in ``raise:1:3``. The fault strikes in the step's first micro-step; all else is the
command as it is.
"""

import os
import runpy
import signal
import sys
import time

from phi3v_dist.training import loop

WHAT, RANK, STEP = os.environ["FAULT"].split(":")
real_take_step = loop.take_step


def take_step(engine, plan, batches, **told):
    if plan.step + 1 == int(STEP) and os.environ["RANK"] == RANK:
        return FAULTS[WHAT](engine, plan, batches, told)
    return real_take_step(engine, plan, batches, **told)


def raise_an_error(*_):
    raise ValueError("a bug of ours")


def freeze(engine, plan, batches, told):
    os.kill(os.getpid(), signal.SIGSTOP)
    return real_take_step(engine, plan, batches, **told)


def sleep(*_):
    time.sleep(3600)


FAULTS = {
    "raise": raise_an_error,
    "freeze": freeze,
    "sleep": sleep,
}

loop.take_step = take_step
sys.argv[0] = "launch/train.py"
runpy.run_path("launch/train.py", run_name="__main__")
