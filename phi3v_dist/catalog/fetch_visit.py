"""One URL from the first request to its bytes: robots.txt, redirects, second tries.

Enters: a URL. Leaves: its bytes, or the ``FetchFault`` of its last try. Each redirect is a request of its own: it waits
for its turn at the host that it leads to, and that host's robots.txt is obeyed. Pauses between tries double and are
drawn at random, so that URLs that failed together don't come back together.
"""

import asyncio
import random
import time
from datetime import UTC
from email.utils import parsedate_to_datetime

from yarl import URL

from phi3v_dist.catalog.fetch_client import Answer, Client, FetchFault
from phi3v_dist.catalog.fetch_hosts import Host, Hosts, host_name
from phi3v_dist.catalog.fetch_robots import MOST_BYTES, Robots
from phi3v_dist.config.fetch_options import FetchOptions

_REDIRECTS = (301, 302, 303, 307, 308)
_STATUSES_THAT_PASS = (408, 429, 500, 502, 503, 504)


class Visitor:
    """Gets URLs. ``num_requests``: requests sent so far."""

    def __init__(self, client: Client, hosts: Hosts, options: FetchOptions) -> None:
        self._client, self._hosts, self._options = client, hosts, options
        self._robots = Robots(lambda url: self._persistent(url, MOST_BYTES, obey=False))
        self.num_requests = 0

    async def picture(self, url: str) -> bytes:
        """Get a picture's bytes. Raises ``FetchFault``."""
        try:
            address = URL(url)
        except ValueError as error:
            raise FetchFault("not a web address", str(error)) from None
        return await self._persistent(address, self._options.max_picture_megabytes * 1e6, self._options.obey_robots)

    async def _persistent(self, url: URL, most_bytes: float, obey: bool) -> bytes:
        for attempt in range(1, self._options.attempts + 1):
            try:
                return await self._followed(url, most_bytes, obey)
            except FetchFault as fault:
                if not fault.may_pass or attempt == self._options.attempts:
                    raise
                await asyncio.sleep(self._backoff_seconds(attempt))
        raise AssertionError("attempts is at least 1")

    async def _followed(self, url: URL, most_bytes: float, obey: bool) -> bytes:
        for _ in range(self._options.max_redirects + 1):
            if not (name := host_name(url)):
                raise FetchFault("not a web address", str(url))
            host = self._hosts[name]
            if obey:
                await self._robots.check(url, host)
            answer = await self._asked(url, name, host, most_bytes)
            if answer.status not in _REDIRECTS or "Location" not in answer.headers:
                return _body_of(answer)
            try:
                url = url.join(URL(answer.headers["Location"]))
            except ValueError as error:
                raise FetchFault("not a web address", str(error)) from None
        raise FetchFault("too many redirects", f"more than {self._options.max_redirects}, the last to {url}")

    async def _asked(self, url: URL, name: str, host: Host, most_bytes: float) -> Answer:
        """One request, in its turn."""
        async with host.turn():
            if host.given_up:
                raise FetchFault("gave up on host", host.given_up)
            self.num_requests += 1
            try:
                answer = await self._client.get(url, most_bytes)
                self._refuse_later(answer, host)
            except FetchFault as fault:
                self._hosts.record(name, fault)
                raise
            self._hosts.record(name, None)
            return answer

    def _refuse_later(self, answer: Answer, host: Host) -> None:
        """A status that may pass is a fault; who says "too many", or when to come back, isn't asked by anybody now."""
        if answer.status not in _STATUSES_THAT_PASS:
            return
        wait_seconds = retry_after_seconds(answer.headers.get("Retry-After", ""))
        if wait_seconds is not None or answer.status == 429:
            host.pause(self._backoff_seconds(1) if wait_seconds is None else wait_seconds)
        detail = "" if wait_seconds is None else f"Retry-After {wait_seconds:.0f} s"
        raise FetchFault(f"http {answer.status}", detail, may_pass=True, of_host=True, status=answer.status)

    def _backoff_seconds(self, attempt: int) -> float:
        mean = self._options.backoff_seconds * 2 ** (attempt - 1)
        return min(mean * random.uniform(0.5, 1.5), self._options.max_wait_seconds)


def retry_after_seconds(header: str) -> float | None:
    """What a ``Retry-After`` asks for, given as seconds or as a date; None if it says nothing of use."""
    if header.strip().isdecimal():
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())


def _body_of(answer: Answer) -> bytes:
    if answer.status != 200:
        raise FetchFault(f"http {answer.status}", status=answer.status)
    return answer.body
