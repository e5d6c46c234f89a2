"""One HTTP request under a deadline and a size limit.

Enters: a URL. Leaves: the answer's status, headers and whole body, or a ``FetchFault`` of a named class. Redirects,
second tries and politeness are the business of others. The deadline covers name, connection and body together, so that
a server that drips a byte a second ends too (a limit on each read never would).

Names are looked up by c-ares (aiodns): the system's ``getaddrinfo`` blocks a thread that can't be stopped, a few
threads then stall all hosts, and a program can't end before they do.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.resolver import AsyncResolver
from pycares import AresError
from yarl import URL

from phi3v_dist import __version__
from phi3v_dist.config.fetch_options import FetchOptions
from phi3v_dist.errors import CatalogError

ROBOT_NAME: Final = "phi3v-dist"  # what a robots.txt may call us

_NO_SUCH_NAME = (1, 4)  # c-ares: the name has no address, or isn't there; all else is the name server's fault


class FetchFault(Exception):
    """A URL that gave no picture. ``reason`` is its class, ``detail`` what was seen.

    ``may_pass``: another try may help. ``of_host``: the host didn't do its work, whatever the URL.
    ``of_nameserver``: the host's name couldn't be looked up at all. ``status`` of the answer, 0 without one.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        may_pass: bool = False,
        of_host: bool = False,
        of_nameserver: bool = False,
        status: int = 0,
    ) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.status = f"fetch: {reason}", detail, status
        self.may_pass, self.of_host, self.of_nameserver = may_pass, of_host, of_nameserver


@dataclass(frozen=True)
class Answer:
    """An answer that came whole. ``body`` is empty unless ``status`` is 200."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """Sends requests; made by ``open_client``."""

    def __init__(self, session: aiohttp.ClientSession, deadline_seconds: float) -> None:
        self._session = session
        self._deadline_seconds = deadline_seconds

    async def get(self, url: URL, most_bytes: float) -> Answer:
        """Ask once. Raises ``FetchFault`` when no whole answer comes."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                async with self._session.get(url, allow_redirects=False) as response:
                    body = await _body(response, most_bytes) if response.status == 200 else b""
                    return Answer(response.status, response.headers, body)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _fault_of(error, self._deadline_seconds) from error


@asynccontextmanager
async def open_client(options: FetchOptions) -> AsyncIterator[Client]:
    """A client with its connections and remembered addresses. Proxies are taken from the usual variables."""
    contact = f" (+{options.contact})" if options.contact else ""
    headers = {
        "User-Agent": f"{ROBOT_NAME}/{__version__}{contact}",
        "Accept": "image/*, */*;q=0.5",
        "Accept-Encoding": "identity",  # pictures are packed already, and a declared length then means the body
    }
    try:
        resolver = AsyncResolver(nameservers=list(options.nameservers) or None)
    except AresError:
        raise CatalogError(
            "no address of a name server",
            where="fetch.nameservers",
            value=", ".join(options.nameservers),
            mend="As in 10.0.0.1 or 10.0.0.1:53",
        ) from None
    connector = aiohttp.TCPConnector(
        limit=0,  # how many at a time is decided in fetch_hosts: waiting for a turn is no part of the deadline
        resolver=resolver,
        ttl_dns_cache=options.dns_cache_seconds,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=True,
    ) as session:
        yield Client(session, options.deadline_seconds)


async def _body(response: aiohttp.ClientResponse, most_bytes: float) -> bytes:
    """The whole body. aiohttp compares it with ``Content-Length`` or the last chunk, and raises when it is cut off."""
    declared = response.content_length
    if declared is not None and declared > most_bytes:
        raise _too_large(f"{declared} bytes declared", response)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise _too_large(f"more than {most_bytes:.0f} bytes", response)
    return bytes(body)


def _too_large(detail: str, response: aiohttp.ClientResponse) -> FetchFault:
    response.close()  # else the connection would be read to its end to be used again
    return FetchFault("too large", detail)


def _fault_of(error: Exception, deadline_seconds: float) -> FetchFault:
    detail = str(error) or type(error).__name__
    match error:
        case aiohttp.ClientConnectorDNSError():
            cause = error.os_error.__cause__
            unknown = cause is not None and cause.args[:1] in [(code,) for code in _NO_SUCH_NAME]
            return FetchFault("dns", detail, may_pass=not unknown, of_host=True, of_nameserver=not unknown)
        case TimeoutError():
            detail = f"no whole answer in {deadline_seconds:g} s"
            return FetchFault("timed out", detail, may_pass=True, of_host=True)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return FetchFault("tls", detail, of_host=True)
        case aiohttp.ClientPayloadError():
            return FetchFault("truncated", detail, may_pass=True, of_host=True)
        case aiohttp.InvalidURL() | ValueError():
            return FetchFault("not a web address", detail)
    return FetchFault("connection failed", detail, may_pass=True, of_host=True)
