"""launch/train.py with a fault on one rank, for tests of how a run ends.

``FAULT``: what:rank:step, as in ``raise:1:3``. The fault strikes in the step's first micro-step; ``freeze`` with step
``first`` before the first check, with ``last`` behind the last step. ``warn`` strikes in the validation after the step:
the rank gets SIGUSR1 there, before held-out packs (``warn``) or before answers (``warn-late``). All else is the command
as it is.
"""

import os
import runpy
import signal
import sys
import time

from phi3v_dist.training import loop, prepare, validation, watch

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


def frozen_before(function):
    """``function``, with the rank frozen before it."""

    def freezes(*arguments):
        if os.environ["RANK"] == RANK:
            os.kill(os.getpid(), signal.SIGSTOP)
        return function(*arguments)

    return freezes


def warned_in(method):
    """``method`` of a validation, with the warning before the job's end as it begins."""

    def warns(self, engine, *arguments):
        if engine.global_steps == int(STEP) and os.environ["RANK"] == RANK:
            os.kill(os.getpid(), signal.SIGUSR1)
        return method(self, engine, *arguments)

    return warns


if WHAT == "warn":
    validation.Validation._loss = warned_in(validation.Validation._loss)
elif WHAT == "warn-late":
    validation.Validation._answers = warned_in(validation.Validation._answers)
elif STEP == "first":
    watch.START_MINUTES = 0.3  # of patience
    prepare.gather_materials = frozen_before(prepare.gather_materials)
elif STEP == "last":
    loop.mark_finished = frozen_before(loop.mark_finished)  # on rank 0; the others are in the last barrier
else:
    loop.take_step = take_step
sys.argv[0] = "launch/train.py"
runpy.run_path("launch/train.py", run_name="__main__")
