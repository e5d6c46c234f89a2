"""One request: who we say we are, names looked up once and by the servers told, deadlines that a drip can't stretch."""

import asyncio
import time

import pytest
from faulty_server import STALL_SECONDS, picture
from yarl import URL

from phi3v_dist import __version__
from phi3v_dist.catalog.fetch_client import FetchFault, open_client
from phi3v_dist.errors import CatalogError


def ask(options, *urls: str, most_bytes: float = 1e6) -> list:
    """Answers or faults of some URLs, one after the other."""

    async def asked() -> list:
        found = []
        async with open_client(options) as client:
            for url in urls:
                try:
                    found.append(await client.get(URL(url), most_bytes))
                except FetchFault as fault:
                    found.append(fault)
        return found

    return asyncio.run(asked())


def test_our_name_version_and_contact_are_told(server, quick) -> None:
    (answer,) = ask(quick(contact="shop@example.com"), server.url("good/a.png"))
    assert (answer.status, answer.body) == (200, picture("a.png"))
    assert server.seen[0].headers["user-agent"] == f"phi3v-dist/{__version__} (+shop@example.com)"
    assert server.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("behaviour", ["stall", "drip"])
def test_a_request_ends_at_its_deadline_whatever_comes(server, quick, behaviour) -> None:
    started = time.monotonic()
    (fault,) = ask(quick(deadline_seconds=0.2), server.url(f"{behaviour}/a.png"))
    assert fault.reason == "fetch: timed out" and fault.may_pass and fault.of_host
    assert 0.2 <= time.monotonic() - started < STALL_SECONDS / 2


def test_a_body_of_exactly_the_limit_is_taken_and_one_more_byte_is_not(server, quick) -> None:
    size = len(picture("a.png"))
    url = server.url("good/a.png")
    assert ask(quick(), url, most_bytes=size)[0].body == picture("a.png")
    assert ask(quick(), url, most_bytes=size - 1)[0].reason == "fetch: too large"


def test_an_address_is_looked_up_once(server, name_server, quick) -> None:
    urls = [f"http://shop.test:{server.port}/cut/{number}.png" for number in range(5)]  # each ends its connection
    faults = ask(quick(nameservers=[name_server.address]), *urls)
    assert [fault.reason for fault in faults] == ["fetch: truncated"] * 5
    assert len(server.seen) == 5 and name_server.asked == ["shop"]


def test_a_name_that_is_not_there_differs_from_a_name_server_that_fails(name_server, quick) -> None:
    options = quick(nameservers=[name_server.address])
    gone, broken = ask(options, "http://gone.test/a.png", "http://broken.test/a.png")
    assert (gone.reason, gone.may_pass, gone.of_nameserver) == ("fetch: dns", False, False)
    assert (broken.reason, broken.may_pass, broken.of_nameserver) == ("fetch: dns", True, True)


def test_no_server_at_the_port_is_a_failed_connection(server, quick) -> None:
    server.close()
    (fault,) = ask(quick(), server.url("a.png"))
    assert fault.reason == "fetch: connection failed" and fault.may_pass


def test_a_server_without_tls_is_no_https(server, quick) -> None:
    (fault,) = ask(quick(deadline_seconds=1), f"https://{server.host}/a.png")
    assert fault.reason == "fetch: tls" and not fault.may_pass


def test_a_wrong_name_server_is_the_users_error(quick) -> None:
    with pytest.raises(CatalogError, match=r"fetch\.nameservers"):
        ask(quick(nameservers=["dns.example.com"]), "http://a.test/")
