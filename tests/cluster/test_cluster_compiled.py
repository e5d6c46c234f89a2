"""A start after one that was killed while it held torch's lock, in an environment of its own."""

import os
import subprocess
import sys

import pytest
import torch.utils.cpp_extension

from phi3v_dist.cluster.compiled import load_compiled_parts

PROGRAM = "from phi3v_dist.cluster.compiled import load_compiled_parts; print(load_compiled_parts())"


@pytest.fixture
def left_locked():
    """The build as a killed process leaves it: whole, and locked by a file."""
    lock = load_compiled_parts() / "lock"
    lock.touch()
    yield lock
    lock.unlink(missing_ok=True)


def test_torch_alone_waits_for_ever_where_a_start_was_killed(left_locked):
    baton = torch.utils.cpp_extension.FileBaton(str(left_locked))
    assert not baton.try_acquire()


def test_ours_starts_where_a_start_was_killed(left_locked):
    starts = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], env=os.environ | {"DS_ACCELERATOR": "cpu"}) for _ in range(2)
    ]
    assert [start.wait(timeout=120) for start in starts] == [0, 0]
    assert not left_locked.exists()


@pytest.mark.slurm  # it compiles: make slurm-test has the minute
def test_of_ranks_that_start_at_once_one_compiles(tmp_path):
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    starts = [subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment) for _ in range(3)]
    assert [start.wait(timeout=400) for start in starts] == [0, 0, 0]
    (log,) = tmp_path.rglob(".ninja_log")
    built = [line.split("\t")[3] for line in log.read_text().splitlines()[1:]]  # ninja's own record of what it ran
    assert sorted(built) == sorted(set(built)) and any(name.endswith(".so") for name in built)
