"""A picture gives its bytes unchanged, from a file or from the table; a URL has none before it is fetched."""

from pathlib import Path

import pytest

from phi3v_dist.catalog.fetched import FetchedPictures
from phi3v_dist.catalog.pictures import NotFetched, Picture, Span, picture_of


def found(cell: str | bytes, root: Path) -> Picture:
    return picture_of(cell, root, FetchedPictures(root / "fetched"))


def test_bytes_come_unchanged_from_file_and_table(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8")
    assert found("a.jpg", tmp_path).read() == found(b"\xff\xd8", tmp_path).read() == b"\xff\xd8"
    with pytest.raises(FileNotFoundError):
        found("b.jpg", tmp_path).read()


def test_a_span_is_a_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "bytes.bin").write_bytes(b"0123456789")
    picture = Picture(Span(tmp_path / "bytes.bin", 3, 4))
    assert (picture.read(), str(picture)) == (b"3456", "4 bytes in the table")


def test_a_url_is_no_file(tmp_path: Path) -> None:
    url = "https://x.invalid/a.jpg"
    assert found(url, tmp_path) == Picture(url, "not fetched")
    with pytest.raises(NotFetched, match="not fetched"):
        found(url, tmp_path).read()


def test_a_reject_shows_the_name_or_the_size() -> None:
    assert [str(Picture(source)) for source in (Path("a/b.jpg"), "https://x.invalid", b"123")] == [
        "a/b.jpg",
        "https://x.invalid",
        "3 bytes in the table",
    ]
