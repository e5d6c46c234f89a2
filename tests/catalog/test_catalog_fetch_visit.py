"""Second tries, pauses that servers ask for, redirects."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest

from phi3v_dist.catalog.fetch import fetch_pictures
from phi3v_dist.catalog.fetch_visit import retry_after_seconds
from phi3v_dist.catalog.fetched import FetchedPictures


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_fault_that_passes_costs_one_more_request(server, catalog, quick, status: int) -> None:
    path = f"first/{status}/-/a.png"
    assert fetch_pictures(catalog(server.url(path)), quick()).counts["fetched"] == 1
    assert server.paths[path] == 2


def test_pauses_double(server, catalog, quick) -> None:
    fetch_pictures(catalog(server.url("status/500/a.png")), quick(attempts=4, backoff_seconds=0.05))
    starts = [seen.seconds for seen in server.pictures()]
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert len(pauses) == 3
    assert all(pause > 0.05 * 2**n / 2 for n, pause in enumerate(pauses))


def test_retry_after_holds_back_everybody_who_waits_for_the_host(server, other_server, catalog, quick) -> None:
    urls = [server.url(f"first/429/1/{number}.png") for number in range(4)]
    fetch_pictures(catalog(*urls, other_server.url("good/a.png")), quick(connections_per_host=2, attempts=20))
    starts = [seen.seconds for seen in server.pictures()]
    assert len(starts) == 8
    assert starts[2] - starts[0] > 0.99  # two were on their way
    assert other_server.pictures()[0].seconds < starts[2]


def test_retry_after_is_bounded(server, catalog, quick) -> None:
    started = time.monotonic()
    date = format_datetime(datetime.now(UTC) + timedelta(hours=5), usegmt=True).replace(" ", "_")
    urls = [server.url("first/429/86400/a.png"), server.url(f"first/503/{date}/b.png".replace(",", "%2C"))]
    summary = fetch_pictures(catalog(*urls), quick(max_wait_seconds=0.1))
    assert summary.counts["fetched"] == 2
    assert 0.1 < time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), (" 7 ", 7), ("0", 0), ("", None), ("soon", None), ("-3", None), ("1e9", None), ("²", None)],
)
def test_retry_after_in_seconds(header: str, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


@pytest.mark.parametrize(("minutes", "seconds"), [(2, 120), (-2, 0)])
def test_retry_after_as_a_date(minutes: int, seconds: float) -> None:
    date = datetime.now(UTC) + timedelta(minutes=minutes)
    for header in (format_datetime(date, usegmt=True), date.strftime("%a, %d %b %Y %H:%M:%S -0000")):
        assert retry_after_seconds(header) == pytest.approx(seconds, abs=30)


def test_redirects_to_another_host_are_followed_in_its_turn(server, other_server, catalog, quick) -> None:
    urls = [server.url(f"to/{other_server.port}/{number}.png") for number in range(6)]
    table = catalog(*urls, server.url("hops/4/x.png"))
    summary = fetch_pictures(table, quick(connections_per_host=6, requests_per_second=100))
    assert summary.counts["fetched"] == 7
    starts = [seen.seconds for seen in other_server.seen]
    assert len(starts) == 7 and starts[-1] - starts[0] > 0.05
    assert FetchedPictures(table.fetched_folder).find(urls[0]).exists()
