"""Processes that check pictures and read finished tar files back.

Enters: products in their final order. Leaves: the same order with a verdict for each, whichever process was faster.
Processes are spawned, not forked: the parent has torch's threads. A process that dies (out of memory) ends the
command with one line instead of a hang, which is why this isn't ``multiprocessing.Pool``.
"""

import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from phi3v_dist.catalog.checks import Product, Reject, check_picture
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.errors import ShardError
from phi3v_dist.shards.index import index_shard
from phi3v_dist.shards.manifest import describe_file

# Large enough that sending costs nothing, small enough that progress is seen.
_PRODUCTS_PER_TASK = 16
# Ahead of the writer, but not so far that the pictures fall out of the page cache before they are written.
_TASKS_PER_WORKER = 4


@dataclass(frozen=True)
class FinishedShard:
    """``rows``: index rows of one tar file; ``facts``: its entry in the manifest."""

    rows: pa.Table
    facts: dict[str, Any]


class Workers:
    """A running pool of ``count`` processes."""

    def __init__(self, pool: ProcessPoolExecutor, count: int) -> None:
        self._pool, self._count = pool, count

    def check_pictures(
        self, ordered: list[tuple[str, Product]], catalog: CatalogOptions
    ) -> Iterator[tuple[str, Product, Reject | None]]:
        """Yield (split, product, reject or None) in the order given."""
        pending: deque[tuple[list[tuple[str, Product]], Future[list[Reject | None]]]] = deque()
        waiting = iter(ordered)
        while True:
            while len(pending) < self._count * _TASKS_PER_WORKER:
                if not (task := list(islice(waiting, _PRODUCTS_PER_TASK))):
                    break
                products = [product for _, product in task]
                pending.append((task, self._pool.submit(_check_products, products, catalog)))
            if not pending:
                return
            task, verdicts = pending.popleft()
            for (split, product), reject in zip(task, verdicts.result(), strict=True):
                yield split, product, reject

    def finish_shard(self, folder: Path, name: str, facts: dict[str, Any]) -> "Future[FinishedShard]":
        """Begin to read a finished tar file back for index and manifest; ``facts``: its split, samples, members."""
        return self._pool.submit(_finish_shard, folder, name, facts)


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


def _check_products(products: list[Product], catalog: CatalogOptions) -> list[Reject | None]:
    return [check_picture(product, catalog) for product in products]


def _finish_shard(folder: Path, name: str, facts: dict[str, Any]) -> FinishedShard:
    rows = index_shard(folder, name, facts["split"])
    assert rows.num_rows == facts["samples"], f"{name}: {rows.num_rows} samples read back, {facts['samples']} written"
    return FinishedShard(rows, describe_file(folder, name) | facts)
