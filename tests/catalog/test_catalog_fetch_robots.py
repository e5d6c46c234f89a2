"""robots.txt: obeyed with wildcards, asked for once, forbids all when it can't be reached."""

import pytest

from phi3v_dist.catalog.fetch import fetch_pictures


def reasons(server, catalog, quick, *paths: str, **options: object) -> dict[str, int]:
    summary = fetch_pictures(catalog(*map(server.url, paths)), quick(**options))
    return {reason: count for reason, count in summary.counts.items() if count}


def test_what_robots_forbids_is_never_asked_for(server, catalog, quick) -> None:
    server.robots = 200, "User-agent: *\nDisallow: /private/\nDisallow: /*.gif$\n"
    paths = ("private/a.png", "good/b.gif", "good/c.png", "good/d.png")
    assert reasons(server, catalog, quick, *paths) == {"fetched": 2, "fetch: robots.txt forbids": 2}
    assert server.paths == {"robots.txt": 1, "good/c.png": 1, "good/d.png": 1}


def test_rules_for_our_name_come_before_those_for_all(server, catalog, quick) -> None:
    server.robots = 200, "User-agent: *\nDisallow: /\n\nUser-agent: phi3v-dist\nDisallow: /private/\n"
    found = reasons(server, catalog, quick, "private/a.png", "good/b.png")
    assert found == {"fetched": 1, "fetch: robots.txt forbids": 1}


def test_robots_can_be_left_unread(server, catalog, quick) -> None:
    server.robots = 200, "User-agent: *\nDisallow: /\n"
    assert reasons(server, catalog, quick, "good/a.png", obey_robots=False) == {"fetched": 1}
    assert server.paths == {"good/a.png": 1}


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_host_without_rules_allows_all(server, catalog, quick, status: int) -> None:
    server.robots = status, "User-agent: *\nDisallow: /\n"
    assert reasons(server, catalog, quick, "good/a.png") == {"fetched": 1}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_rules_that_cannot_be_reached_forbid_all(server, catalog, quick, status: int) -> None:
    server.robots = status, ""
    paths = [f"good/{number}.png" for number in range(30)]
    assert reasons(server, catalog, quick, *paths) == {"fetch: robots.txt unreachable": 30}
    assert server.paths == {"robots.txt": 2}  # both attempts


def test_crawl_delay_is_kept_up_to_the_longest_wait(server, catalog, quick) -> None:
    server.robots = 200, "User-agent: *\nCrawl-delay: 3600\n"
    reasons(server, catalog, quick, *(f"good/{number}.png" for number in range(4)), max_wait_seconds=0.1)
    assert len(server.pictures()) == 4
    # from the rules on: what a server sees late it can only see later
    assert server.pictures()[3].seconds - server.seen[0].seconds > 0.299


def test_the_host_that_a_redirect_leads_to_is_asked_too(server, other_server, catalog, quick) -> None:
    other_server.robots = 200, "User-agent: *\nDisallow: /good/\n"
    found = reasons(server, catalog, quick, f"to/{other_server.port}/a.png")
    assert found == {"fetch: robots.txt forbids": 1}
    assert other_server.paths == {"robots.txt": 1}
