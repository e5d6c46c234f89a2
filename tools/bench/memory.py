"""How much memory of its own a process took for a while; pages of a mapped file are the node's and don't count."""

import threading
from pathlib import Path


class AnonymousMemory:
    """``most_mb``: the most of RssAnon above its value at the start, looked at every 2 ms."""

    def __enter__(self) -> "AnonymousMemory":
        self.most_mb, self._start, self._end = 0.0, rss_anon_mb(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            ended = self._end.wait(0.002)
            self.most_mb = max(self.most_mb, rss_anon_mb() - self._start)
            if ended:
                return


def rss_anon_mb(pid: int | str = "self") -> float:
    """What a process has for itself; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0) / 1000
