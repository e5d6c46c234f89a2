"""A whole run against servers that do everything wrong: each fault has its class, counts add up, nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from faulty_server import FaultyServer, picture
from launching import REPOSITORY

from phi3v_dist.catalog.fetch import fetch_pictures
from phi3v_dist.catalog.fetched import FetchedPictures, key_of, picture_path
from phi3v_dist.config.options import ShardOptions
from phi3v_dist.errors import CatalogError
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.shards.write import make_shards

FAULTS = {
    "stall/a.png": "fetch: timed out",
    "drip/a.png": "fetch: timed out",
    "cut/a.png": "fetch: truncated",
    "cutchunk/a.png": "fetch: truncated",
    "circle/0": "fetch: too many redirects",
    "hops/9/x.png": "fetch: too many redirects",
    "elsewhere/a.png": "fetch: not a web address",
    "status/404/a.png": "fetch: http 404",
    "status/403/a.png": "fetch: http 403",
    "status/206/a.png": "fetch: http 206",
    "status/500/a.png": "fetch: http 500",
    "status/429/a.png": "fetch: http 429",
    "html/a.jpg": "fetch: not a picture",
    "empty/a.jpg": "fetch: empty",
    "declared/a.png": "fetch: too large",
    "endless/a.png": "fetch: too large",
    "reset/a.png": "fetch: connection failed",
    "garbage/a.png": "fetch: connection failed",
}
AGAIN = ("stall", "drip", "cut", "cutchunk", "reset", "garbage", "status/500", "status/429")  # may pass: 2 attempts


def rejects(folder: Path) -> list[dict]:
    return pq.read_table(folder / "rejects.parquet").to_pylist()


def test_every_fault_has_its_class_and_counts_add_up(server, catalog, quick) -> None:
    good = [f"good/{number}.png" for number in range(12)]
    gone = "http://gone.invalid:0/x.png"
    urls = [server.url(path) for path in (*FAULTS, *good)]
    table = catalog(*urls, "images/local.png", "http://[/x.png", gone)
    options = quick(deadline_seconds=0.3, connections_per_host=32, max_picture_megabytes=0.2, give_up_window=1000)
    summary = fetch_pictures(table, options)
    fetched = FetchedPictures(table.fetched_folder)
    assert {path: fetched.find(server.url(path)) for path in FAULTS} == FAULTS
    for path in good:
        assert fetched.find(server.url(path)).read_bytes() == picture(Path(path).name)
    assert fetched.find("http://[/x.png") == "fetch: not a web address"
    assert fetched.find(server.url("never")) == "not fetched"
    assert summary.counts.total() == len(urls) + 3 and summary.counts["no URL, left alone"] == 1
    assert summary.counts["fetched"] == len(good) == summary.num_pictures
    assert summary.failed_share == pytest.approx((len(FAULTS) + 2) / (len(urls) + 2))
    found = rejects(Path(table.fetched_folder))
    assert len(found) == len(FAULTS) + 2
    assert found[7] | {"value": ""} == {
        "file": table.table,
        "row": 9,
        "product_code": "P7",
        "reason": "fetch: http 404",
        "value": "",
    }
    assert found[7]["value"].startswith(urls[7])
    for path in FAULTS:
        if path.partition("/")[0] not in ("circle", "hops"):
            # aiohttp itself asks once more where a connection that was used before turns out to be closed
            tries = (2, 3, 4) if path.startswith(("reset", "garbage")) else (2,) if path.startswith(AGAIN) else (1,)
            assert server.paths[path] in tries, path
    assert server.paths["hops/4/x.png"] == 1 and server.paths["hops/3/x.png"] == 0  # five redirects, not six


def test_a_url_is_fetched_once_however_often_it_is_named(server, catalog, quick) -> None:
    a, b = server.url("good/a.png"), server.url("good/b.png")
    summary = fetch_pictures(catalog(a, [a, b], [b, a]), quick())
    assert server.paths == {"robots.txt": 1, "good/a.png": 1, "good/b.png": 1}
    assert summary.counts == {"fetched": 5, "no URL, left alone": 0}
    again = fetch_pictures(catalog(a, b), quick())
    assert again.num_requests == 0 and again.counts["fetched"] == 2


def test_pictures_are_kept_as_they_came_under_the_ending_of_their_content(server, catalog, quick) -> None:
    url = server.url("good/a.jpg?size=1")
    table = catalog(url)
    fetch_pictures(table, quick())
    path = FetchedPictures(table.fetched_folder).find(url)
    assert path == picture_path(Path(table.fetched_folder), key_of(url), "png")
    assert path.read_bytes() == picture("a.jpg?size=1")


def test_fetched_pictures_become_shards_and_others_rejects_with_their_class(server, catalog, quick, tmp_path) -> None:
    good, gone, never = server.url("good/a.png"), server.url("status/404/b.png"), server.url("good/never.png")
    fetch_pictures(catalog(good, gone), quick())
    table = catalog(good, gone, never)
    make_shards(table, ShardOptions(folder=str(tmp_path / "shards"), workers=1))
    index = load_index(tmp_path / "shards")
    assert ShardReader(index).sample(0).images == (picture("a.png"),)
    told = pq.read_table(tmp_path / "shards/rejects.parquet").to_pylist()
    assert [(reject["reason"], reject["value"]) for reject in told] == [
        ("picture: fetch: http 404", gone),
        ("picture: not fetched", never),
    ]


def test_rejected_urls_are_left_alone_until_asked_for(server, catalog, quick) -> None:
    bad, good = server.url("first/500/-/a.png"), server.url("good/b.png")
    table = catalog(bad, good)
    once = quick(attempts=1)
    assert fetch_pictures(table, once).counts == {"fetch: http 500": 1, "fetched": 1, "no URL, left alone": 0}
    assert fetch_pictures(table, once).num_requests == 0
    summary = fetch_pictures(table, once, retry_rejected=True)
    assert summary.counts["fetched"] == 2 and summary.num_pictures == 1
    assert rejects(Path(table.fetched_folder)) == []
    assert server.paths["good/b.png"] == 1


def test_a_url_that_left_the_table_is_not_fetched(server, catalog, quick) -> None:
    bad, good = server.url("status/500/a.png"), server.url("good/b.png")
    fetch_pictures(catalog(bad), quick())
    before = server.paths["status/500/a.png"]
    fetch_pictures(catalog(good), quick(), retry_rejected=True)
    assert server.paths["status/500/a.png"] == before


def test_a_dead_host_costs_few_requests_and_others_none(server, other_server, catalog, quick) -> None:
    dead = [server.url(f"status/503/{number}.png") for number in range(300)]
    good = [other_server.url(f"good/{number}.png") for number in range(30)]
    summary = fetch_pictures(catalog(*dead, *good), quick(give_up_window=10))
    assert summary.counts["fetched"] == 30
    assert summary.counts["fetch: http 503"] + summary.counts["fetch: gave up on host"] == 300
    assert len(server.pictures()) < 20
    rest = [row for row in rejects(summary.folder) if row["reason"] == "fetch: gave up on host"]
    assert "of its last 10 requests failed, the last by fetch: http 503" in rest[0]["value"]


def test_a_host_with_many_missing_pictures_is_not_given_up(server, catalog, quick) -> None:
    paths = [f"status/404/{number}.png" for number in range(40)]
    summary = fetch_pictures(catalog(*map(server.url, paths)), quick(give_up_window=5))
    assert summary.counts["fetch: http 404"] == 40


def test_requests_beside_each_other_are_limited_per_host_and_in_all(server, other_server, catalog, quick) -> None:
    urls = [one.url(f"slow/{number}.png") for one in (server, other_server) for number in range(12)]
    fetch_pictures(catalog(*urls), quick(connections_per_host=3))
    assert max(seen.beside for seen in server.seen) == 3
    server.seen.clear()
    table = catalog(*(f"{url}?again" for url in urls[:12]))
    fetch_pictures(table, quick(connections_per_host=8, connections=2))
    assert max(seen.beside for seen in server.seen) == 2


def test_requests_to_a_host_keep_their_rate(server, catalog, quick) -> None:
    urls = [server.url(f"good/{number}.png") for number in range(16)]
    fetch_pictures(catalog(*urls), quick(requests_per_second=50))
    starts = [seen.seconds for seen in server.seen]
    assert len(starts) == 17
    # the server's clock sees a request a little after its start; a whole second's worth can't come closer
    assert all(starts[n] - starts[0] > n / 50 - 0.03 for n in range(17))


def command(table, *words: str) -> list[str]:
    recipe = Path(table.table).with_name("recipe.yaml")
    options = {"catalog": table.model_dump(mode="json"), "fetch": {"requests_per_second": 0}}
    recipe.write_text(json.dumps(options))  # which is YAML
    return [sys.executable, "tools/fetch_products.py", "--config", str(recipe), *words]


def killed_in_the_middle(table, server: FaultyServer, number: int) -> subprocess.Popen:
    """Start the command; send the signal when the server has seen so many requests."""
    process = subprocess.Popen(
        command(table), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    deadline = time.monotonic() + 30
    while len(server.seen) < 20 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None
    process.send_signal(number)
    process.wait(30)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_and_fetches_nothing_twice(server, catalog, quick, number) -> None:
    paths = [f"slow/{number}.png" for number in range(100)]
    table = catalog(*map(server.url, paths))
    process = killed_in_the_middle(table, server, number)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    folder = Path(table.fetched_folder)
    have = [path for path in paths if picture_path(folder, key_of(server.url(path)), "png").exists()]
    assert 10 < len(have) < 100
    for path in have:  # whole
        assert picture_path(folder, key_of(server.url(path)), "png").read_bytes() == picture(Path(path).name)
    asked_before = server.paths.total()
    summary = fetch_pictures(table, quick(connections_per_host=4))
    assert summary.counts["fetched"] == 100 and summary.num_pictures == 100 - len(have)
    assert all(server.paths[path] == 1 for path in have)
    assert server.paths.total() - asked_before == 101 - len(have)  # robots.txt too
    assert [name for name in os.listdir(folder) if name.endswith(".partial")] == []
    assert list(folder.glob("*/.*")) == []
    if number == signal.SIGINT:
        assert process.stderr.read() == "stopped by the keyboard\n"


def test_the_command_says_what_became_of_every_picture(server, catalog) -> None:
    table = catalog(server.url("good/a.png"), server.url("status/404/b.png"), "c.png")

    def call(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command(table, *words), cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )

    done = call()
    assert done.returncode == 3
    assert (
        done.stderr.count("\n") == 1 and "50.0% of the URLs failed, fetch.max_failed_share allows 5.0%" in done.stderr
    )
    cells = [line.split("│") for line in done.stdout.splitlines() if "│" in line]
    counts = {row[1].strip(): int(row[2]) for row in cells}
    assert counts.pop("pictures of the table") == sum(counts.values()) == 3
    assert "now: 1 pictures fetched" in done.stdout
    done = call("fetch.max_failed_share=0.5")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_table_without_urls_is_the_users_error(catalog, quick) -> None:
    with pytest.raises(CatalogError, match="no picture is a URL"):
        fetch_pictures(catalog("a.png"), quick())


def test_two_runs_into_one_folder_are_refused(server, catalog, quick) -> None:
    table = catalog(*(server.url(f"slow/{number}.png") for number in range(30)))
    first = threading.Thread(target=fetch_pictures, args=(table, quick(connections_per_host=1)))
    first.start()
    while not server.seen:
        time.sleep(0.005)
    with pytest.raises(CatalogError, match="another command fetches"):
        fetch_pictures(table, quick())
    with pytest.raises(CatalogError, match="being fetched"):
        FetchedPictures(table.fetched_folder).find("http://a/x.png")
    first.join()


def test_an_unreachable_disk_ends_the_run_and_nothing_is_lost(server, catalog, quick) -> None:
    blocked = server.url("good/blocked.png")
    table = catalog(*(server.url(f"slow/{number}.png") for number in range(20)), blocked)
    folder = Path(table.fetched_folder)
    folder.mkdir()
    (folder / key_of(blocked)[:2]).write_text("in the way")
    with pytest.raises(OSError) as caught:
        fetch_pictures(table, quick())
    assert caught.value.filename is not None  # so that the command ends with one line
    (folder / key_of(blocked)[:2]).unlink()
    assert fetch_pictures(table, quick()).counts["fetched"] == 21
