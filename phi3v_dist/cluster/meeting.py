"""Ends a rank whose peers don't come, and says who is missing.

Enters: who this rank is, and how long the others have. Leaves: nothing once all have met, or one line about the ranks
that didn't come and the exit code of a failed machine. Ranks that have come leave a mark in the store, which is there
as soon as rank 0 is; the process group itself names nobody, and waits for its whole time-out.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import torch.distributed as dist

from phi3v_dist.cluster.store import NoAnswerError, connect, within
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.errors import LostRankError

_SPEAKS = "meeting/speaks"  # set by the rank that does
_LAST_MOMENT_SECONDS = 3.0  # for the line of the rank that speaks: the launcher ends all when the first ends
_DOUBT_SECONDS = 10.0  # who finds no rank 0 may be the one that is cut off: first the others have the word
_MEND = "Look at that node, and at NETWORK_INTERFACE in slurm/site.env; the same command may work on other nodes."
_MEND_ALL = "Look at NETWORK_INTERFACE in slurm/site.env, and at the firewall between nodes."


class Meeting:
    """Watches from now on. ``on_end``: called on the rank that speaks, with the guilty nodes and the line."""

    def __init__(self, who: ClusterInfo, seconds: float, on_end: Callable[[set[str], str], None]) -> None:
        """``seconds``: until this process ends, unless ``over`` is called before."""
        self._who, self._seconds, self._on_end = who, seconds, on_end
        self._store: dist.TCPStore | None = None
        self._over = threading.Event()
        if who.num_ranks > 1:
            for task in (self._arrive, self._wait):
                threading.Thread(target=task, name="meeting", daemon=True).start()

    def over(self) -> None:
        """All have come."""
        self._over.set()
        self._store = None  # a connection fewer in rank 0's process

    def _arrive(self) -> None:
        with contextlib.suppress(RuntimeError):  # no rank 0 within the time: _wait tells
            # longer than _wait waits: torch tells the end of this time in twenty lines
            store = connect(self._who, self._who.master_port, 2 * self._seconds + _DOUBT_SECONDS)
            store.set(_mark(self._who.rank), self._who.node_name)
            self._store = None if self._over.is_set() else store

    def _wait(self) -> None:
        if self._over.wait(self._seconds):
            return
        speaks, guilty, line = self._explain()
        if not self._over.is_set():  # it may have come to pass meanwhile
            if speaks:
                print(f"{LostRankError.label} {line}", file=sys.stderr, flush=True)
                with contextlib.suppress(Exception):  # this process ends, whatever is broken beside
                    self._on_end(guilty, line)
            # Without rank 0's process there is no store, and ranks that look into it a moment later would stumble.
            time.sleep(_LAST_MOMENT_SECONDS * (3 if self._who.is_rank_0 else 1))
            sys.stdout.flush()
            os._exit(LostRankError.exit_code)

    def _explain(self) -> tuple[bool, set[str], str]:
        """Whether this rank speaks, the nodes to blame, and the line."""
        who, store = self._who, self._store
        if store is None:
            time.sleep(_DOUBT_SECONDS)
            names = _names(who, {who.rank: who.node_name})
            what = f"nobody listens at {who.master_addr}:{who.master_port}, where rank 0 on {_these(names, [0])} should"
            line = f"node {who.node_name}: {what}, for {self._seconds:.0f} s. {_MEND}"
            return who.rank_of_node == 0, set(names[:1]) - {who.node_name}, line
        try:
            speaks = within(lambda: store.add(_SPEAKS, 1)) == 1
            came = within(lambda: _marks(store, who.num_ranks))
        except NoAnswerError:
            line = f"node {who.node_name}: rank 0 is gone before all ranks came. {_MEND}"
            return who.rank_of_node == 0, set(), line
        missing = [rank for rank in range(who.num_ranks) if rank not in came]
        if not missing:
            what = f"all ranks came to {who.master_addr}:{who.master_port} and some don't reach each other"
            return speaks, set(), f"{what} for {self._seconds:.0f} s. {_MEND_ALL}"
        nodes = sorted({rank // who.ranks_per_node for rank in missing})
        names = _names(who, came)
        what = f"{_ranks(missing)} on {_these(names, nodes)} didn't come to {who.master_addr}:{who.master_port}"
        # Where most are missing the fault lies with no single node: a wrong network, say, or a file system.
        guilty = {names[node] for node in nodes} if names and 2 * len(nodes) <= who.num_nodes else set()
        return speaks, guilty, f"{what} within {self._seconds:.0f} s. {_MEND}"


def _mark(rank: int) -> str:
    return f"meeting/{rank}"


def _marks(store: dist.TCPStore, num_ranks: int) -> dict[int, str]:
    """The ranks that have come, and their nodes' names."""
    there = [rank for rank in range(num_ranks) if store.check([_mark(rank)])]
    return {rank: store.get(_mark(rank)).decode() for rank in there}


def _names(who: ClusterInfo, came: Mapping[int, str]) -> Sequence[str]:
    """All nodes' names; none where the launcher didn't tell them, or those that came lie in another order."""
    names = who.node_names
    told = len(names) == who.num_nodes and all(names[rank // who.ranks_per_node] == own for rank, own in came.items())
    return names if told else ()


def _these(names: Sequence[str], nodes: Sequence[int]) -> str:
    named = [names[node] for node in nodes] if names else [f"number {node}" for node in nodes]
    return f"node{'s' * (len(named) != 1)} {', '.join(named)}"


def _ranks(ranks: Sequence[int]) -> str:
    """As in "ranks 0, 8-15"."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1][1:] = [rank]
        else:
            runs.append([rank])
    return f"rank{'s' * (len(ranks) != 1)} {', '.join('-'.join(map(str, run)) for run in runs)}"
