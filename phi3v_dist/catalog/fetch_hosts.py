"""Politeness and patience per host: how many requests at a time, how fast, pauses, and when to give up.

Enters: who wants to ask a host, and how it went. Leaves: a turn, when it is due. A pause that one answer asks for
(429 with ``Retry-After``) holds back all that wait for the host, else each of them would be refused once more.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from yarl import URL

from phi3v_dist.catalog.fetch_client import FetchFault
from phi3v_dist.config.fetch_options import FetchOptions
from phi3v_dist.errors import CatalogError


def host_name(url: str | URL) -> str:
    """``name:port``; empty where there is none, so that such URLs wait in a line of their own."""
    try:
        address = URL(url)
    except ValueError:
        return ""
    return f"{address.host}:{address.port}" if address.scheme in ("http", "https") and address.host else ""


class Host:
    """One ``name:port``."""

    def __init__(self, options: FetchOptions, everywhere: asyncio.Semaphore) -> None:
        self._everywhere = everywhere
        self._here = asyncio.Semaphore(options.connections_per_host)
        self._seconds_apart = 1 / options.requests_per_second if options.requests_per_second else 0.0
        self._next_start = 0.0  # on the loop's clock
        self._failures: deque[bool] = deque(maxlen=options.give_up_window)
        self._give_up_share = options.give_up_share
        self._max_wait_seconds = options.max_wait_seconds
        self.given_up = ""  # why

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a request may start; it counts as under way inside."""
        async with self._here:
            clock = asyncio.get_running_loop().time
            while (wait_seconds := self._next_start - clock()) > 0:
                await asyncio.sleep(wait_seconds)
            self._next_start = clock() + self._seconds_apart
            async with self._everywhere:
                yield

    def pause(self, seconds: float) -> None:
        """No request starts before; at most ``fetch.max_wait_seconds``."""
        due = asyncio.get_running_loop().time() + min(seconds, self._max_wait_seconds)
        self._next_start = max(self._next_start, due)

    def slow_down(self, seconds_apart: float) -> None:
        """Keep requests so far apart, as a ``Crawl-delay`` asks for; at most ``fetch.max_wait_seconds``."""
        self._seconds_apart = max(self._seconds_apart, min(seconds_apart, self._max_wait_seconds))

    def record(self, fault: FetchFault | None) -> None:
        """How a request went. A 404 is an answer; a host that doesn't answer most requests is given up."""
        self._failures.append(fault is not None and fault.of_host)
        count, failed = len(self._failures), sum(self._failures)
        if fault is not None and count == self._failures.maxlen and failed >= self._give_up_share * count:
            self.given_up = f"{failed} of its last {count} requests failed, the last by {fault.reason}"


class Hosts:
    """All hosts of a run, and the name servers that all of them need."""

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        self._everywhere = asyncio.Semaphore(options.connections)
        self._hosts: dict[str, Host] = {}
        self._names: OrderedDict[str, bool] = OrderedDict()  # the hosts asked last → couldn't its name be looked up?

    def __getitem__(self, name: str) -> Host:
        if name not in self._hosts:
            self._hosts[name] = Host(self._options, self._everywhere)
        return self._hosts[name]

    def record(self, name: str, fault: FetchFault | None) -> None:
        """How a request went. Raises ``CatalogError`` when the name servers fail for most hosts.

        A name that doesn't exist is an answer. When the name servers fail, going on would brand every URL.
        """
        self[name].record(fault)
        window = self._options.give_up_window
        self._names[name] = fault is not None and fault.of_nameserver
        self._names.move_to_end(name)
        if len(self._names) > window:
            self._names.popitem(last=False)
        failed = sum(self._names.values())
        if len(self._names) == window and failed >= self._options.give_up_share * window:
            raise CatalogError(
                f"no name server answered for {failed} of the last {window} hosts",
                where="fetch.nameservers",
                value=fault.detail if fault is not None else None,
                mend="Mend the network, or name servers that can take it, then start again with --retry-rejected.",
            )
