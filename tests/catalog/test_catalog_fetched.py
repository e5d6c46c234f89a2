"""Looking fetched pictures up: from many processes, after forks and pickling, never while they change."""

import multiprocessing
import pickle
from pathlib import Path

import pytest

from phi3v_dist.catalog.fetch_state import fetch_state
from phi3v_dist.catalog.fetched import FetchedPictures, is_url, key_of, picture_path
from phi3v_dist.errors import CatalogError

URLS = [f"http://a.test/{number}.png" for number in range(200)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with fetch_state(tmp_path) as state:
        state.plan(URLS)
        for number, url in enumerate(URLS):
            if number % 3 == 0:
                state.fetched(key_of(url), "jpg")
            elif number % 3 == 1:
                state.failed(key_of(url), "fetch: http 404", "Not Found")
    return tmp_path


def expected(folder: Path) -> list[Path | str]:
    kinds = (None, "fetch: http 404", "not fetched")
    return [kinds[n % 3] or picture_path(folder, key_of(url), "jpg") for n, url in enumerate(URLS)]


def find_all(fetched: FetchedPictures) -> list[Path | str]:
    return [fetched.find(url) for url in URLS]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_several_processes_find_the_same(folder: Path, method: str) -> None:
    fetched = FetchedPictures(folder)
    assert find_all(fetched) == expected(folder)  # open already when the others start
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(find_all, [fetched] * 4) == [expected(folder)] * 4
    assert find_all(pickle.loads(pickle.dumps(fetched))) == expected(folder)


def test_a_folder_that_nobody_filled_has_nothing(tmp_path: Path) -> None:
    assert FetchedPictures(tmp_path / "none").find(URLS[0]) == "not fetched"


def test_readers_and_the_writer_keep_apart(folder: Path) -> None:
    fetched = FetchedPictures(folder)
    fetched.find(URLS[0])
    with pytest.raises(CatalogError, match="another command fetches into it or reads it"), fetch_state(folder):
        pass
    fetched.close()
    with fetch_state(folder), pytest.raises(CatalogError, match="are being fetched"):
        fetched.find(URLS[0])
    assert find_all(fetched) == expected(folder)


def test_a_killed_writer_is_named_and_damage_too(folder: Path) -> None:
    journal = folder / "fetched.sqlite-journal"
    journal.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(600))
    with pytest.raises(CatalogError, match="killed in the middle"):
        FetchedPictures(folder).find(URLS[0])
    journal.unlink()
    (folder / "fetched.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(CatalogError, match="can't be read"):
        FetchedPictures(folder).find(URLS[0])


@pytest.mark.parametrize(
    ("text", "url"),
    [("http://a/b", True), ("HTTPS://a/b", True), ("a/b.png", False), ("ftp://a", False), ("http:/a", False)],
)
def test_a_url_is_told_from_a_path(text: str, url: bool) -> None:
    assert is_url(text) == url


def test_keys_of_odd_urls_differ() -> None:
    odd = ["http://a/\ud800", "http://a/ü", "http://a/%C3%BC", "http://a/ü#1"]
    assert len({key_of(url) for url in odd}) == 4
