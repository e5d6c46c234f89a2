"""How a rank ends: one line for the person, a verdict for the batch script.

Enters: what a front of launch/ does on every rank. Leaves: the end of the process, after one line or silence. srun
returns 143 for every failing job (facts: slurm.md), so each rank's verdict goes to ``attempts.jsonl`` of the run; it
also tells ranks that merely lost a peer that somebody knows the reason. A bug's traceback stays in the rank's log.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from phi3v_dist.cluster.who import ClusterInfo, who_am_i
from phi3v_dist.console import log, run_command
from phi3v_dist.errors import PASSING, LostDiskError, LostRankError, RunError, UserError
from phi3v_dist.training.attempts import read_events, tell_verdict

BUG_EXIT_CODE = 1
# What torch's process groups say when the other end is gone; only DistError has a type of its own.
_LOST = re.compile(r"gloo/|NCCL|Connection (closed|reset)|Broken pipe|Socket Timeout|[Tt]imed out", re.MULTILINE)
_SECONDS_BETWEEN_RANKS = 0.1
_LONGEST_WAIT_SECONDS = 10.0
_SECONDS_FOR_THE_OTHER_TO_SPEAK = 20.0


class BugError(RunError):
    """Not the user's to mend: the line says where the traceback lies."""

    exit_code = BUG_EXIT_CODE
    on_every_rank = False


def be_a_rank(main: Callable[[ClusterInfo], int | None]) -> NoReturn:
    """Run ``main`` as the rank that the launcher made this process, and end the process with its exit code."""
    code = run_command(lambda: _run(main))
    sys.stdout.flush()
    os._exit(code)  # a tidy end of Python could wait: for ranks that are gone, for a W&B that does not answer


def _run(main: Callable[[ClusterInfo], int | None]) -> int:
    who = who_am_i()
    silent = False

    def speaks(error: UserError) -> bool:
        nonlocal silent
        silent = not _speaks(error, who)
        return not silent

    code = run_command(lambda: main(who), speaks=speaks)
    if silent:
        time.sleep(_SECONDS_FOR_THE_OTHER_TO_SPEAK)  # the launcher ends all ranks when the first ends
    return code


def _speaks(error: UserError, who: ClusterInfo) -> bool:
    return not error.said_elsewhere and (who.is_rank_0 or not error.on_every_rank)


@contextmanager
def farewell(run_folder: Path, who: ClusterInfo) -> Iterator[None]:
    """Turn whatever ends the code inside into a ``UserError``, its verdict told."""
    try:
        yield
    except Exception as error:
        explained = explain(error, run_folder, who)
        _tell(explained, run_folder, who)
        raise explained from error


def explain(error: Exception, run_folder: Path, who: ClusterInfo) -> UserError:
    """The one line for whatever ended this rank."""
    if isinstance(error, UserError):
        return error
    place = f"rank {who.rank} on {who.node_name}"
    if isinstance(error, OSError) and error.filename is not None:
        mend = "Mend the path, its permissions or the disk; the same command goes on from the last checkpoint"
        kind = LostDiskError if error.errno in PASSING else RunError
        failed = kind(f"{error.filename}: {error.strerror}", where=place, mend=mend)
        failed.on_every_rank = False
        return failed
    # Into the rank's log; on the screen the traceback is seen only where no log is open yet.
    log.log(logging.INFO if log.handlers else logging.ERROR, "this rank ends", exc_info=error)
    if _lost_a_rank(error):
        mend = f"The same command goes on from the last checkpoint; {run_folder}/logs may tell more"
        # gloo's own words stand between the place in its source and advice
        words = re.sub(r"^\[[^]]*pair.cc[^]]*\] ", "", _first_line(error)).partition(". This is typically")[0]
        return LostRankError(f"another rank is gone ({words})", where=place, mend=mend)
    mend = f"Please report it with the traceback in {run_folder}/logs/rank-{who.rank}.log"
    return BugError(f"{type(error).__name__}: {_first_line(error)}", where=place, mend=mend)


def _tell(error: UserError, run_folder: Path, who: ClusterInfo) -> None:
    """Tell the verdict, unless another rank knows more.

    Ranks that lost a peer look one after the other, so that the first of them speaks if nobody else did.
    """
    if isinstance(error, LostRankError):
        time.sleep(min(who.rank * _SECONDS_BETWEEN_RANKS, _LONGEST_WAIT_SECONDS))
        error.said_elsewhere = any(
            event["event"] == "verdict" and event["attempt"] == who.attempt for event in read_events(run_folder)
        )
    if _speaks(error, who) and run_folder.is_dir():
        tell_verdict(run_folder, who, error.exit_code, str(error))


def _lost_a_rank(error: Exception) -> bool:
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and bool(_LOST.search(str(error))))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300]
