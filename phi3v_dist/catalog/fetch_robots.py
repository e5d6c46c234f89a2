"""What each host's robots.txt allows us (RFC 9309), asked for once per host.

Enters: a URL about to be asked for. Leaves: nothing, or the ``FetchFault`` that forbids it. A host without the file
allows everything. A file that can't be reached forbids everything, as the RFC says: its fault becomes that of all
URLs of the host. protego reads the wildcards that most shops' files are made of; the standard library doesn't.
"""

import asyncio
from collections.abc import Awaitable, Callable

from protego import Protego
from yarl import URL

from phi3v_dist.catalog.fetch_client import ROBOT_NAME, FetchFault
from phi3v_dist.catalog.fetch_hosts import Host

MOST_BYTES = 500 * 1024  # the RFC's least limit

Fetch = Callable[[URL], Awaitable[bytes]]


class Robots:
    """The rules of all hosts. ``fetch`` gets a robots.txt."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._rules: dict[URL, asyncio.Task[Protego]] = {}

    async def check(self, url: URL, host: Host) -> None:
        """Raises ``FetchFault`` for a URL that we may not ask for."""
        origin = url.origin()
        if origin not in self._rules:  # the first one asks, all wait for its answer
            self._rules[origin] = asyncio.create_task(self._read(origin, host))
        try:
            rules = await self._rules[origin]
        except FetchFault as fault:  # a new one for each URL: an exception collects tracebacks
            raise FetchFault(
                fault.reason.removeprefix("fetch: "), fault.detail, of_host=True, of_nameserver=fault.of_nameserver
            ) from None
        if not rules.can_fetch(str(url), ROBOT_NAME):
            raise FetchFault("robots.txt forbids", str(origin / "robots.txt"))

    async def _read(self, origin: URL, host: Host) -> Protego:
        try:
            text = (await self._fetch(origin / "robots.txt")).decode("utf-8-sig", "replace")
        except FetchFault as fault:
            if fault.status >= 500 or fault.status == 429:
                raise FetchFault("robots.txt unreachable", fault.reason) from None
            if not fault.of_host:  # 4xx, redirects in a circle: there is none
                return Protego.parse("")
            raise
        rules = Protego.parse(text)
        host.slow_down(rules.crawl_delay(ROBOT_NAME) or 0.0)
        return rules
