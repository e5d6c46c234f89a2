"""A file is whole or absent: after an exception, and after a writer was killed before its rename."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash

from phi3v_dist.files import atomic_path, locked, sha256_of, write_json, write_text, xxh3_of

WRITER = """
import sys
from phi3v_dist.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    with open(temporary, "w") as handle:
        handle.write("new, but only ha")
        handle.flush()
        print("half written", flush=True)
        sys.stdin.read()
"""


def test_content_stands_under_its_name_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "er" / "a.txt", "größer\n")
    assert (tmp_path / "deep/er/a.txt").read_bytes() == "größer\n".encode()
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["a.txt"]


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new, but only ha")
        raise RuntimeError("in the middle")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


@pytest.mark.parametrize("old", ["old", None])
def test_a_writer_killed_before_the_rename_leaves_the_old_file_or_none(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_text(old)
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half written\n"
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
    assert (path.read_text() if path.exists() else None) == old
    visible = [found.name for found in tmp_path.iterdir() if not found.name.startswith(".")]
    assert visible == ([] if old is None else ["a.txt"])


def test_a_new_writer_is_not_hindered_by_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.1.partial").write_text("ha")
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_equal_json_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": "ü"})
    write_json(tmp_path / "b.json", {"a": "ü", "b": [1, 2.5, None]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": "ü", "b": [1, 2.5, None]}


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_hash_is_the_published_one_of_abc(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_hash_of_a_large_file_equals_hashlibs(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192
    (tmp_path / "large").write_bytes(data)
    assert sha256_of(tmp_path / "large") == hashlib.sha256(data).hexdigest()
    assert xxh3_of(tmp_path / "large") == xxhash.xxh3_128_hexdigest(data)


def test_a_lock_is_shared_by_readers_or_held_by_one_writer(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, wait=False), pytest.raises(BlockingIOError), locked(path, shared=True, wait=False):
        pass
    readers = (locked(path, shared=True, wait=False), locked(path, shared=True, wait=False))
    with readers[0], readers[1], pytest.raises(BlockingIOError), locked(path, wait=False):
        pass
    with locked(path, wait=False):
        pass
