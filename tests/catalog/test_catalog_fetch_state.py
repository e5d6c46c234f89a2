"""The table on disk: laid beside the pictures at every start, private to one writer, damaged ones named."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist.catalog.fetch_state import fetch_state
from phi3v_dist.catalog.fetched import FetchedPictures, key_of, picture_path
from phi3v_dist.errors import CatalogError

URLS = [f"http://a.test/{number}.png" for number in range(6)]


def put(folder: Path, url: str) -> Path:
    path = picture_path(folder, key_of(url), "png")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"picture")
    return path


def waiting(folder: Path, *, failed: bool = False) -> set[str]:
    with fetch_state(folder) as state:
        state.forget(failed=failed)
        state.match_files()
        state.plan(URLS)
        return {url for host, _ in state.hosts() for _, url in state.waiting(host)}


def test_files_and_table_are_made_to_agree(tmp_path: Path) -> None:
    assert waiting(tmp_path) == set(URLS)
    with fetch_state(tmp_path) as state:
        for url in URLS[:3]:
            state.fetched(key_of(url), "png")
        state.failed(key_of(URLS[3]), "fetch: http 404", "")
    put(tmp_path, URLS[0])  # as the table says; the files of 1 and 2 are lost
    put(tmp_path, URLS[4])  # renamed into place, then killed
    half = put(tmp_path, URLS[5])
    half.rename(half.with_name(f".{half.name}.0a1b2c3d.partial"))
    (tmp_path / "ab").mkdir(exist_ok=True)
    (tmp_path / "ab/notes.txt").touch()
    assert waiting(tmp_path) == {URLS[1], URLS[2], URLS[5]}
    assert list(tmp_path.glob("*/.*")) == [] and (tmp_path / "ab/notes.txt").exists()
    assert waiting(tmp_path, failed=True) == {URLS[1], URLS[2], URLS[3], URLS[5]}


def test_a_lost_table_is_made_anew_from_the_pictures(tmp_path: Path) -> None:
    path = put(tmp_path, URLS[0])
    (tmp_path / "fetched.sqlite").write_bytes(b"damaged " * 1000)
    with pytest.raises(CatalogError, match=r"can't be read.*Delete this file"):
        waiting(tmp_path)
    (tmp_path / "fetched.sqlite").unlink()
    assert waiting(tmp_path) == set(URLS[1:])
    assert FetchedPictures(tmp_path).find(URLS[0]) == path


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CatalogError, match=r"file/x: the folder can't be made.*catalog\.fetched_folder"),
        fetch_state(tmp_path / "file/x"),
    ):
        pass


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 600), min_size=1, max_size=4))
def test_every_url_waits_once_at_its_host_the_longest_line_first(tmp_path_factory, sizes: list[int]) -> None:
    urls = [f"http://{host}.test/{number}.png" for host, size in enumerate(sizes) for number in range(size)]
    with fetch_state(tmp_path_factory.mktemp("state")) as state:
        state.plan([*urls, *urls])
        assert [count for _, count in state.hosts()] == sorted(sizes, reverse=True)
        found = [url for host, _ in state.hosts() for _, url in state.waiting(host)]
    assert sorted(found) == sorted(urls)
