"""Shards behind a URL are those of the disk; a store that is away says so in one line."""

import functools
import http.server
import os
import re
import threading
from pathlib import Path

import fsspec
import pytest

from phi3v_dist.errors import ShardError
from phi3v_dist.shards import index_cache, remote
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import DamagedSample, Sample, ShardReader
from phi3v_dist.shards.verify import verify_shards


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Answers ranges, as a store does; ``ranges`` False: sends the whole file whatever is asked."""

    ranges = True
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.asked.append(self.path)
        if not wanted or not self.ranges:
            return super().do_GET()
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        start, end = map(int, wanted.groups())
        part = path.read_bytes()[start : end + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{path.stat().st_size}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve():
    """Serve a folder over HTTP; the URL and what ends it."""
    servers = []

    def serve(folder: Path, handler: type = RangeHandler) -> tuple[str, http.server.ThreadingHTTPServer]:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", server

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def in_memory(made):
    """The made shards in fsspec's store of this process."""
    files = fsspec.filesystem("memory")
    files.put(str(made.folder), "/shards", recursive=True)
    yield "memory://shards"
    files.rm("/shards", recursive=True)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_WAIT_SECONDS", 0.01)


def _same(url: str, folder: Path) -> None:
    far, near = ShardReader(load_index(url)), ShardReader(load_index(folder))
    order = [3, 18, 0, 7, 3, *range(19)]
    assert list(far.samples(order)) == [near.sample(number) for number in order]
    assert far.sample(5) == near.sample(5)


def test_over_http_every_sample_is_that_of_the_disk(made, serve):
    _same(serve(made.folder)[0], made.folder)


def test_in_memory_every_sample_is_that_of_the_disk(made, in_memory):
    _same(in_memory, made.folder)
    assert verify_shards(in_memory) == []


def test_file_urls_are_paths(made):
    assert load_index(f"file://{made.folder}").folder == made.folder


def test_a_forked_process_reads_over_http_too(made, serve):
    reader = ShardReader(load_index(serve(made.folder)[0]))
    before = reader.sample(4)
    child = os.fork()
    if child == 0:
        os._exit(0 if reader.sample(4) == before else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_index_behind_a_url_is_fetched_once(made, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "_SMALL_BYTES", 0)
    url, _ = serve(made.folder)
    RangeHandler.asked.clear()
    for _ in range(3):
        index = load_index(url, tmp_path)
    assert index.mapped_from is not None
    assert "/index.parquet" in RangeHandler.asked
    fetched = RangeHandler.asked.count("/index.parquet")
    load_index(url, tmp_path)
    assert RangeHandler.asked.count("/index.parquet") == fetched


def test_a_damaged_sample_behind_a_url_is_named_in_its_place(damaged_copy, serve):
    index = load_index(damaged_copy)
    row = index.row(7)
    content = bytearray((damaged_copy / row["shard"]).read_bytes())
    content[row["image_offset"][0] + 9] ^= 1
    (damaged_copy / row["shard"]).write_bytes(content)
    found = list(ShardReader(load_index(serve(damaged_copy)[0])).samples([6, 7, 8]))
    assert [type(sample) for sample in found] == [Sample, DamagedSample, Sample]
    assert found[1].key == row["key"]


def test_a_missing_tar_file_is_a_damage_while_the_store_answers(damaged_copy, serve):
    index = load_index(serve(damaged_copy)[0])
    (damaged_copy / index.row(0)["shard"]).unlink()
    with pytest.raises(DamagedSample, match="FileNotFoundError"):
        ShardReader(index).sample(0)


def test_a_store_that_goes_away_is_one_line(made, serve):
    url, server = serve(made.folder)
    reader = ShardReader(load_index(url))
    server.shutdown()
    server.server_close()
    with pytest.raises(ShardError, match=f"^{url}/?: the shards can't be reached any more: .*Check the network"):
        list(reader.samples([0, 1]))
    with pytest.raises(ShardError, match=f"^{url}: the store can't be reached: .*Check the network"):
        load_index(url)


def test_a_server_without_ranges_is_one_line(made, serve):
    class WholeFiles(RangeHandler):
        ranges = False

    reader = ShardReader(load_index(serve(made.folder, WholeFiles)[0]))
    with pytest.raises(ShardError, match="whole files where a range was asked for"):
        reader.sample(0)


def test_a_url_without_shards_names_the_tool(serve, tmp_path):
    with pytest.raises(ShardError, match=r"no shards here.*tools/make_shards\.py"):
        load_index(serve(tmp_path)[0])


def test_a_kind_of_url_that_nothing_reads_is_one_line():
    with pytest.raises(ShardError, match=r"nosuch://bucket/shards: .*nosuch"):
        load_index("nosuch://bucket/shards")
