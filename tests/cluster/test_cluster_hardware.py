"""Measurements of a node: software, clocks of real ranks of which one runs ahead, folders."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from phi3v_dist.cluster.hardware import (
    Clock,
    bytes_in,
    clock_offsets,
    find_token,
    free_bytes,
    git_commit,
    leave_token,
    source_hash,
    versions,
)
from phi3v_dist.cluster.process_group import free_port
from phi3v_dist.errors import RunError

AHEAD_SECONDS = 5.0
CLOCKS = f"""
import json, os, sys, time
import torch.distributed as dist
from phi3v_dist.cluster.hardware import clock_offsets, read_clocks
from phi3v_dist.cluster.process_group import process_group
from phi3v_dist.cluster.who import ClusterInfo

def run(rank):
    who = ClusterInfo(rank, 3, 0, 1, "srun", "127.0.0.1", int(sys.argv[1]))
    with process_group(who, "gloo", 1.0):
        ahead = {AHEAD_SECONDS} if rank == 2 else 0.0
        read = [None] * 3
        dist.all_gather_object(read, read_clocks(lambda: time.time() + ahead))
        if rank == 1:
            print(json.dumps(clock_offsets(read)), flush=True)

children = []
for rank in range(3):
    if (child := os.fork()) == 0:
        run(rank)
        os._exit(0)
    children.append(child)
sys.exit(max(abs(os.waitpid(child, 0)[1]) for child in children))
"""


def test_a_clock_that_runs_ahead_is_seen_with_its_resolution() -> None:
    command = [sys.executable, "-c", CLOCKS, str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    offsets, resolution = json.loads(done.stdout)
    assert 0 < resolution < 1
    assert abs(offsets[2] - AHEAD_SECONDS) <= resolution
    assert max(map(abs, offsets[:2])) <= resolution


def test_the_time_in_which_all_met_fastest_counts() -> None:
    slow, fast = [Clock(10.0, 1.0), Clock(10.9, 0.2)], [Clock(20.0, 0.1), Clock(20.05, 0.05)]
    read = [[slow[0], fast[0]], [slow[1], fast[1]]]
    offsets, resolution = clock_offsets(read)
    assert (offsets, resolution) == ([0.0, pytest.approx(0.05)], 0.1)


def test_versions_name_what_must_be_equal() -> None:
    found = versions()
    assert found["python"] == sys.version.split()[0] and found["torch"] == torch.__version__
    assert {"deepspeed", "transformers", "source"} <= found.keys()
    assert "NCCL" not in found or torch.cuda.is_available()


def test_one_changed_letter_changes_the_hash_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room/a.py").write_text("x = 1\n")
    before = source_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert source_hash(tmp_path) == before
    (tmp_path / "room/a.py").write_text("x = 2\n")
    assert source_hash(tmp_path) != before


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == ""


def test_a_checkout_tells_its_commit(tmp_path: Path) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert git_commit(tmp_path) == head.stdout[:12]


def test_free_space_is_that_of_the_disk_a_folder_will_lie_on(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    assert free_bytes(tmp_path / "not/yet/there") == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.05)


def test_bytes_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/one").write_bytes(b"x" * 7)
    (tmp_path / "a/b/two").write_bytes(b"x" * 5)
    assert (bytes_in(tmp_path), bytes_in(tmp_path / "nowhere")) == (12, 0)


def test_a_token_that_comes_late_is_found(tmp_path: Path) -> None:
    timer = threading.Timer(0.5, leave_token, (tmp_path / "probe", "rank-0", "word"))
    timer.start()
    assert 0.4 < find_token(tmp_path / "probe", "rank-0", "word", patience_seconds=20.0) < 20
    timer.join()


@pytest.mark.parametrize(("content", "shown"), [(None, "isn't there"), ("of another run", "has another content")])
def test_a_folder_without_the_others_file_is_another_one(tmp_path: Path, content: str | None, shown: str) -> None:
    if content:
        leave_token(tmp_path, "rank-0", content)
    with pytest.raises(RunError, match=f"{shown}: this is another folder than on rank 0's node"):
        find_token(tmp_path, "rank-0", "word", patience_seconds=0.3)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file is in the way")
    with pytest.raises(RunError, match=r"run/\.preflight: nothing can be written here: Not a directory"):
        leave_token(tmp_path / "run/.preflight", "rank-0", "word")
