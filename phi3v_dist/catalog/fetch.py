"""From the URLs of a product table to pictures on disk.

Enters: the table, and a folder that may hold the pictures of earlier runs. Leaves: in the folder every picture that the
web gave, as it came, and a verdict for each URL (``catalog/fetched.py`` reads them). In four steps:

1. the folder and its table are laid side by side, so a run goes on where the last one was, however that one ended;
2. each URL of the product table that has no verdict waits for its host;
3. hosts are worked on side by side, each at its own pace, and a verdict is kept the moment it is known;
4. the product table is read once more: what became of each picture is counted, and what is missing goes to the rejects.

Step 3 takes URLs from disk, a few per host, so memory doesn't grow with the table, and one slow host holds up no other.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

from phi3v_dist.catalog.fetch_client import FetchFault, open_client
from phi3v_dist.catalog.fetch_hosts import Hosts
from phi3v_dist.catalog.fetch_rejects import FETCHED, NO_URL, REJECTS_NAME, urls_of, write_fetch_rejects
from phi3v_dist.catalog.fetch_state import FetchState, fetch_state
from phi3v_dist.catalog.fetch_visit import Visitor
from phi3v_dist.catalog.fetch_watchdog import Watchdog
from phi3v_dist.catalog.fetched import picture_path
from phi3v_dist.catalog.tables import read_table
from phi3v_dist.config.fetch_options import FetchOptions
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.console import progress
from phi3v_dist.errors import CatalogError
from phi3v_dist.files import atomic_path
from phi3v_dist.images import ImageError, read_header

_COMMIT_SECONDS = 1.0
_WRITERS = 16  # threads that wait for the disk
_SPARE_SECONDS = 60.0  # of the watchdog, beyond the longest deadline and pause


@dataclass
class FetchSummary:
    """``counts``: pictures of the table by what became of them. The rest is of this run alone."""

    folder: Path
    counts: Counter[str] = field(default_factory=Counter)
    num_requests: int = 0
    num_pictures: int = 0
    num_bytes: int = 0

    @property
    def num_urls(self) -> int:
        """Pictures that the table names by URL."""
        return self.counts.total() - self.counts[NO_URL]

    @property
    def failed_share(self) -> float:
        """Share of them that isn't there."""
        return 1 - self.counts[FETCHED] / max(1, self.num_urls)


def fetch_pictures(catalog: CatalogOptions, options: FetchOptions, *, retry_rejected: bool = False) -> FetchSummary:
    """Fetch what isn't there yet; ``retry_rejected``: also what failed before.

    Raises ``CatalogError``: the table can't be read or names no URL, the folder is in use, the name servers fail.
    """
    next(_urls(catalog))  # a table that nothing can be made of leaves nothing
    with fetch_state(Path(catalog.fetched_folder)) as state:
        (state.folder / REJECTS_NAME).unlink(missing_ok=True)  # it would tell of another run
        state.forget(failed=retry_rejected)
        state.match_files()
        state.plan(_urls(catalog))
        summary = FetchSummary(state.folder)
        with Watchdog(_stall_seconds(options), catalog.fetched_folder) as watchdog:
            asyncio.run(_Run(state, options, watchdog, summary).all_hosts())
        summary.counts = write_fetch_rejects(catalog, state)
    return summary


def _urls(catalog: CatalogOptions) -> Iterator[str]:
    found = False
    for row in read_table(catalog):
        for url in urls_of(row, catalog):
            found = True
            yield url
    if not found:
        columns = ", ".join(catalog.columns.image_path)
        mend = "Set catalog.columns.image_path to the column of the URLs; pictures on disk need no fetching."
        raise CatalogError("no picture is a URL", where=f"{catalog.table} column {columns}", mend=mend)


def _stall_seconds(options: FetchOptions) -> float:
    return options.deadline_seconds + 2 * options.max_wait_seconds + _SPARE_SECONDS


class _Run:
    """Step 3."""

    def __init__(self, state: FetchState, options: FetchOptions, watchdog: Watchdog, summary: FetchSummary) -> None:
        self._state, self._options, self._watchdog, self._summary = state, options, watchdog, summary
        self._hosts = Hosts(options)
        self._disk = ThreadPoolExecutor(_WRITERS, thread_name_prefix="pictures")

    async def all_hosts(self) -> None:
        """Work until no URL waits."""
        hosts = self._state.hosts()
        total = sum(count for _, count in hosts)
        line = iter(hosts)
        workers = min(len(hosts), self._options.connections)
        with self._disk, closing(progress(repeat(None, total), "pictures", total)) as self._shown:
            async with open_client(self._options) as client:
                self._visitor = Visitor(client, self._hosts, self._options)
                with _repeatedly(self._keep, _COMMIT_SECONDS):
                    # gather: the first error ends the run, and asyncio.run stops what is still under way
                    await asyncio.gather(*(self._some_hosts(line) for _ in range(workers)))
            next(self._shown, None)  # the last line is printed when nothing is left
        self._keep()

    def _keep(self) -> None:
        self._state.commit()
        if self._visitor.num_requests != self._summary.num_requests:
            self._watchdog.beat()
            self._summary.num_requests = self._visitor.num_requests

    async def _some_hosts(self, line: Iterator[tuple[str, int]]) -> None:
        for name, _ in line:
            urls = self._state.waiting(name)
            await asyncio.gather(*(self._some_urls(name, urls) for _ in range(self._options.connections_per_host)))
            if why := self._hosts[name].given_up:
                self._show(self._state.failed_host(name, "fetch: gave up on host", why))

    async def _some_urls(self, host: str, urls: Iterator[tuple[str, str]]) -> None:
        for key, url in urls:
            await self._one(key, url)
            self._show(1)
            await asyncio.sleep(0)  # verdicts without a request come fast, and others' deadlines run
            if self._hosts[host].given_up:
                break

    async def _one(self, key: str, url: str) -> None:
        try:
            data = await self._visitor.picture(url)
            loop = asyncio.get_running_loop()
            ending = await loop.run_in_executor(self._disk, _save, self._state.folder, key, data)
        except FetchFault as fault:
            self._state.failed(key, fault.reason, fault.detail)
            return
        self._state.fetched(key, ending)
        self._summary.num_pictures += 1
        self._summary.num_bytes += len(data)

    def _show(self, count: int) -> None:
        self._watchdog.beat()
        for _ in range(count):
            next(self._shown, None)


def _save(folder: Path, key: str, data: bytes) -> str:
    """Put a picture into its place, whole or not at all; returns its ending. Raises ``FetchFault`` for anything else.

    On disk before the table says so: after a power cut no entry tells of a picture that isn't there.
    """
    try:
        ending = read_header(data).suffix
    except ImageError as error:
        raise FetchFault(error.reason, f"begins with {data[:16]!r}") from None
    with atomic_path(picture_path(folder, key, ending)) as temporary:
        temporary.write_bytes(data)
    return ending


@contextmanager
def _repeatedly(function: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call ``function`` every few seconds inside."""

    async def again() -> None:
        while True:
            await asyncio.sleep(seconds)
            function()

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        task.cancel()
