"""Processes that share the work on a shard folder, also with those of other commands.

Enters: numbered pieces of work, each finished when its file is there. Leaves: all finished. Pieces have no owner: a
command begins with its part and goes on with whatever nobody has finished, in an order of its own, so that it never
waits for another one, which may be dead, and rarely does what another is doing; if it does, the bytes are the same.
Processes are spawned, not forked: the parent has torch's threads. A process that dies (out of memory) ends the
command with one line instead of a hang, which is why this isn't ``multiprocessing.Pool``.
"""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context, parent_process

from phi3v_dist.console import progress
from phi3v_dist.errors import ShardError
from phi3v_dist.shards.placing import ALL, Part


class Workers:
    """A running pool of ``count`` processes."""

    def __init__(self, pool: ProcessPoolExecutor, count: int, part: Part) -> None:
        self._pool, self._count, self._part = pool, count, part

    def finish(self, work: Callable[[int], None], total: int, unfinished: Callable[[], list[int]], what: str) -> None:
        """Call ``work`` in processes on all pieces 0 to ``total`` - 1 that are ``unfinished``, showing how far."""
        for _ in progress(self._finished(work, unfinished), what, total):
            pass

    def _finished(self, work: Callable[[int], None], unfinished: Callable[[], list[int]]) -> Iterator[int]:
        """Pieces as they are finished, by whomever."""
        todo, running, told = unfinished(), {}, set()
        first = set(todo)
        while todo or running:
            while todo and len(running) < 2 * self._count:
                piece = self._next(todo)
                running[self._pool.submit(work, piece)] = piece
                todo.remove(piece)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                del running[future]
            todo = [piece for piece in unfinished() if piece not in set(running.values())]
            done = first - set(todo) - set(running.values()) - told
            told |= done
            yield from done

    def _next(self, todo: list[int]) -> int:
        mine = [piece for piece in todo if piece % self._part.count == self._part.number - 1]
        return mine[0] if mine else random.choice(todo)


@contextmanager
def worker_pool(count: int, part: Part = ALL, module: str = __name__) -> Iterator[Workers]:
    """A pool of ``count`` processes, ended on the way out with what still waits. Raises ``ShardError`` if one dies.

    ``module``: what they will work with; they start and import it while the caller goes on.
    """
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin, initargs=(os.getcwd(),))
    for _ in range(count):
        pool.submit(import_module, module)
    try:
        yield Workers(pool, count, part)
    except BrokenProcessPool:
        raise ShardError(
            "a worker process was killed, perhaps for want of memory",
            where="shards.workers",
            value=count,
            mend="Start again with fewer shards.workers, or lower catalog.max_image_megapixels.",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(folder: str) -> None:
    """A spawned process starts in the folder where Python started; Ctrl-C is the parent's to answer."""
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's process waits for work for ever, also of a parent that was killed; nothing it had begun is needed."""
    if parent := parent_process():
        parent.join()
        os._exit(1)
