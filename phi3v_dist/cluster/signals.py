"""Signals that ask a run to stop: the batch script's warning before the time limit, preemption, a person.

Enters: SIGUSR1 and SIGTERM. Leaves: ``StopSignals.asked``, looked at between micro-steps; a second signal ends the
process at once. Python runs signal handlers only between two instructions of the main thread, which may wait in a
collective for ever; so a thread reads the numbers from a socket that the C handler writes to.
"""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

STOPS = (signal.SIGUSR1, signal.SIGTERM)
# Slurm sends TERM twice at the time limit (facts: slurm.md), and srun and the launcher may both hand one on.
SAME_REQUEST_SECONDS = 3.0


class StopSignals:
    """A context manager for the main thread. ``asked``: name of the first signal, or None.

    ``on_second``: called from another thread with the name of a signal that comes after ``SAME_REQUEST_SECONDS``; it
    is expected to end the process.
    """

    def __init__(self, on_second: Callable[[str], None]) -> None:
        self.asked: str | None = None
        self._on_second = on_second
        self._first_seconds = 0.0

    def __enter__(self) -> Self:
        """Take over the signals."""
        self._ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._theirs = theirs
        self._before = {number: signal.signal(number, _leave_to_the_thread) for number in STOPS}
        self._wakeup_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="stop signals", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give the signals back: from here on they do what they did before."""
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._theirs.close()  # the thread reads the end and is done

    def _listen(self) -> None:
        while numbers := self._ours.recv(1):
            if numbers[0] in STOPS:
                self._take(signal.Signals(numbers[0]).name)
        self._ours.close()

    def _take(self, name: str) -> None:
        now = time.monotonic()
        if self.asked is None:
            self.asked, self._first_seconds = name, now
        elif now - self._first_seconds > SAME_REQUEST_SECONDS:
            self._on_second(name)


def _leave_to_the_thread(*_: Any) -> None:
    """A handler must be there, else the signal ends the process."""


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Processes started inside never get the stop signals: Slurm sends them to all of a task, helpers too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """For a process that was forked inside a ``StopSignals`` and ends with its parent."""
    signal.set_wakeup_fd(-1)
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
