"""Processes that check pictures and read finished tar files back.

Enters: shelves of products. Leaves: the same order with a verdict for each product, whichever process was faster.
Processes are spawned, not forked: the parent has torch's threads. A process that dies (out of memory) ends the
command with one line instead of a hang, which is why this isn't ``multiprocessing.Pool``.
"""

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from typing import Any

from phi3v_dist.catalog.checks import Product, Reject, check_pictures
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import ShardError
from phi3v_dist.shards.index import index_shard
from phi3v_dist.shards.manifest import describe_file
from phi3v_dist.shards.shelves import Shelf
from phi3v_dist.shards.staging import FinishedShelf, Staging

# Large enough that sending costs nothing, small enough that progress is seen.
_PRODUCTS_PER_TASK = 16
# Ahead of the writer, but not so far that the pictures fall out of the page cache before they are written.
_TASKS_PER_WORKER = 4


class Workers:
    """A running pool of ``count`` processes."""

    def __init__(self, pool: ProcessPoolExecutor, count: int) -> None:
        self._pool, self._count = pool, count

    def check_pictures(
        self, shelves: Iterable[Shelf], catalog: CatalogOptions
    ) -> Iterator[tuple[Shelf, Product, Reject | None]]:
        """Yield shelf, product, and reject or None, in the order given."""
        pending: deque[tuple[Shelf, tuple[Product, ...], Future[list[Reject | None]]]] = deque()
        tasks = _tasks(shelves)
        while True:
            for shelf, products in islice(tasks, self._count * _TASKS_PER_WORKER - len(pending)):
                pending.append((shelf, products, self._pool.submit(_check_products, products, catalog)))
            if not pending:
                return
            shelf, products, verdicts = pending.popleft()
            for product, reject in zip(products, verdicts.result(), strict=True):
                yield shelf, product, reject

    def finish(self, staging: Staging, shelf: Shelf, members: list[str], rejects: list[Reject]) -> "Future[None]":
        """Begin to read a written tar file back for index and manifest; ``members``: the kinds in it, none: no file."""
        num_samples = len(shelf.products) - len(rejects)
        facts = {"split": shelf.split, "samples": num_samples, "members": members}
        return self._pool.submit(_finish, staging, shelf.tar, facts, rejects)


@contextmanager
def worker_pool(count: int) -> Iterator[Workers]:
    """A pool of ``count`` processes, ended on the way out with what still waits. Raises ``ShardError`` if one dies."""
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin, initargs=(os.getcwd(),))
    try:
        yield Workers(pool, count)
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


def _tasks(shelves: Iterable[Shelf]) -> Iterator[tuple[Shelf, tuple[Product, ...]]]:
    for shelf in shelves:
        for start in range(0, len(shelf.products), _PRODUCTS_PER_TASK):
            yield shelf, shelf.products[start : start + _PRODUCTS_PER_TASK]


def _check_products(products: Sequence[Product], catalog: CatalogOptions) -> list[Reject | None]:
    return [check_pictures(product, catalog) for product in products]


def _finish(staging: Staging, tar: str, facts: dict[str, Any], rejects: list[Reject]) -> None:
    finished = FinishedShelf(None, None, rejects)
    if facts["samples"]:
        rows = index_shard(staging.shards, tar, facts["split"])
        assert rows.num_rows == facts["samples"], f"{tar}: {rows.num_rows} samples read back of {facts['samples']}"
        finished = FinishedShelf(describe_file(staging.shards, tar) | facts, rows, rejects)
    staging.finish(tar, finished)
