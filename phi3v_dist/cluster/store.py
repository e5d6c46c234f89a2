"""A second way into the store where ranks meet, beside the process group's own.

Enters: who this rank is. Leaves: a connection for one thread, and answers in time or not at all: the store lives in a
process of rank 0's node, which may be frozen, gone or cut off.
"""

import contextlib
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from phi3v_dist.cluster.who import ClusterInfo

Value = TypeVar("Value")

ANSWER_SECONDS = 5.0


class NoAnswerError(Exception):
    """The store didn't answer."""


def connect(who: ClusterInfo, port: int, seconds: float) -> dist.TCPStore:
    """Return a connection, once the store is there. Raises ``DistError`` when it isn't within ``seconds``."""
    timeout = timedelta(seconds=seconds)
    return dist.TCPStore(who.master_addr, port, is_master=False, wait_for_workers=False, timeout=timeout)


def within(ask: Callable[[], Value]) -> Value:
    """Call ``ask`` in a thread of its own: a frozen store's caller is not woken by its own time-out.

    Raises ``NoAnswerError``.
    """
    answers: list[Value] = []

    def call() -> None:
        with contextlib.suppress(RuntimeError):
            answers.append(ask())

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if not answers:
        raise NoAnswerError
    return answers[0]
