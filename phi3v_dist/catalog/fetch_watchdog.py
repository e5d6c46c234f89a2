"""Ends a command in which nothing moves any more.

Enters: beats. Leaves: nothing, or the end of the process with one line. Every request has its deadline, but a disk that
never answers or a fault in a library has none; a thread that only sleeps and looks still can end the process then.
"""

import os
import sys
import threading
import time
from types import TracebackType

from phi3v_dist.errors import UserError


class Watchdog:
    """Inside ``with``: more than ``stall_seconds`` without a beat end the process with exit code 2."""

    def __init__(self, stall_seconds: float, where: str) -> None:
        self._stall_seconds, self._where = stall_seconds, where
        self._last_beat = time.monotonic()
        self._over = threading.Event()

    def beat(self) -> None:
        """Something has moved."""
        self._last_beat = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self.beat()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(max(0.01, self._last_beat + self._stall_seconds - time.monotonic())):
            if time.monotonic() - self._last_beat < self._stall_seconds:
                continue
            error = UserError(
                "nothing has moved",
                where=self._where,
                value=f"{self._stall_seconds:.0f} s without an answer",
                mend="Look at the disk and the network, then start again: it goes on where it was.",
            )
            print(f"{error.label} {error}", file=sys.stderr, flush=True)
            os._exit(error.exit_code)  # an ordinary end would wait for the threads that hang
