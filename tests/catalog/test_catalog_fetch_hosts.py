"""Turns, pauses and giving up, on a clock that jumps to the next timer: seconds are exact on a busy machine too."""

import asyncio
import selectors
from itertools import pairwise

import pytest

from phi3v_dist.catalog.fetch_client import FetchFault
from phi3v_dist.catalog.fetch_hosts import Hosts, host_name
from phi3v_dist.errors import CatalogError

DEAD = FetchFault("timed out", of_host=True)
NO_PICTURE = FetchFault("http 404")
NO_NAME = FetchFault("dns", "SERVFAIL", of_host=True, of_nameserver=True)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a.com/x.png", "a.com:80"),
        ("HTTPS://A.com/x.png", "a.com:443"),
        ("http://127.0.0.1:81/", "127.0.0.1:81"),
        ("http://[::1]:81/", "::1:81"),
        ("http:///x.png", ""),
        ("http://[/x.png", ""),
        ("http://a:99999/x.png", ""),
        ("file:///etc/passwd", ""),
        ("x.png", ""),
    ],
)
def test_a_host_is_name_and_port(url: str, name: str) -> None:
    assert host_name(url) == name


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop that doesn't wait: what it would wait, its clock goes on."""

    def __init__(self) -> None:
        loop, self.seconds = self, 0.0

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> list:
                loop.seconds += timeout or 0.0
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self.seconds


def starts(options, count: int, *, before=lambda host: None) -> list[float]:
    """Seconds at which so many turns begin that are asked for at once."""

    async def taken() -> list[float]:
        host, clock = Hosts(options)["a:80"], asyncio.get_running_loop().time
        found: list[float] = []

        async def one() -> None:
            async with host.turn():
                found.append(clock())

        before(host)
        await asyncio.gather(*(one() for _ in range(count)))
        return found

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(taken())


def test_turns_keep_their_distance(quick) -> None:
    found = starts(quick(requests_per_second=100), 10)
    assert [later - earlier for earlier, later in pairwise(found)] == pytest.approx([0.01] * 9)


def test_a_pause_holds_everybody_back_and_is_bounded(quick) -> None:
    assert starts(quick(), 4, before=lambda host: host.pause(0.1)) == pytest.approx([0.1] * 4)
    assert starts(quick(max_wait_seconds=7), 4, before=lambda host: host.pause(1e9)) == pytest.approx([7] * 4)


def test_slowing_down_is_bounded_and_never_speeds_up(quick) -> None:
    found = starts(quick(max_wait_seconds=0.05, requests_per_second=10), 2, before=lambda host: host.slow_down(1e9))
    assert found == pytest.approx([0, 0.1])
    assert starts(quick(max_wait_seconds=5), 2, before=lambda host: host.slow_down(1e9)) == pytest.approx([0, 5])


def outcomes(options, *faults: FetchFault | None) -> str:
    async def recorded() -> str:
        host = Hosts(options)["a:80"]
        for fault in faults:
            host.record(fault)
        return host.given_up

    return asyncio.run(recorded())


def test_a_host_is_given_up_when_most_of_a_full_window_failed(quick) -> None:
    options = quick(give_up_window=10, give_up_share=0.8)
    assert outcomes(options, *[DEAD] * 9) == ""
    assert outcomes(options, *[DEAD] * 10).startswith("10 of its last 10 requests failed")
    assert outcomes(options, None, None, None, *[DEAD] * 7) == ""
    assert outcomes(options, None, None, *[DEAD] * 8) != ""
    assert outcomes(options, *[NO_PICTURE] * 50) == ""


def test_name_servers_that_fail_for_most_hosts_end_the_run(quick) -> None:
    async def recorded(*faults: FetchFault | None) -> None:
        hosts = Hosts(quick(give_up_window=5))
        for number, fault in enumerate(faults):
            hosts.record(f"{number}:80", fault)

    asyncio.run(recorded(NO_NAME, NO_NAME, None, NO_NAME, None, NO_NAME))
    asyncio.run(recorded(*[DEAD] * 20))
    with pytest.raises(CatalogError, match=r"no name server answered for 4 of the last 5 hosts \(found 'SERVFAIL'\)"):
        asyncio.run(recorded(NO_NAME, None, NO_NAME, NO_NAME, NO_NAME))


def test_one_host_without_a_name_ends_no_run(quick) -> None:
    async def recorded() -> None:
        hosts = Hosts(quick(give_up_window=5))
        for _ in range(50):
            hosts.record("a:80", NO_NAME)

    asyncio.run(recorded())
