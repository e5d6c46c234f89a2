"""How a run of real ranks ends when one of them fails: one clear line, nobody left, the right exit code, in time.

The faults are those of faulty_train.py; everything else is the command as users start it.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from launching import DEEPSPEED, REPOSITORY
from test_launch_train import error_lines, marked, wait_until

from phi3v_dist.cluster.process_group import free_port

SHORT = ("tracking.wandb=disabled", "evaluation.every_steps=0", "packing.packs_per_step=4", "training.steps=6")
HANG_SECONDS = 12
LONGEST_END_SECONDS = 90  # of a run whose whole start and steps take 15 s on a quiet machine


@contextmanager
def faulty_run(small_demo, folder: Path, fault: str, *options: str):
    """The launcher's exit code, the lines it showed, how long it ran, and the run's verdicts."""
    words = small_demo.recipe(folder, *SHORT, f"training.hang_minutes={HANG_SECONDS / 60}", *options)
    command = [*DEEPSPEED, str(free_port()), "tests/launch/faulty_train.py", *words]
    with marked() as (environment, alive):
        told = environment | {"FAULT": fault, "PYTHONPATH": str(REPOSITORY)}
        started = time.monotonic()
        done = subprocess.run(
            command, cwd=REPOSITORY, env=told, capture_output=True, text=True, timeout=240, check=False
        )
        seconds = time.monotonic() - started
        assert wait_until(lambda: not alive(), 20), alive()
    events = [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]
    yield done, error_lines(done.stderr + done.stdout), seconds, events


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        ("raise:1:3", 1, ["rank 1", "ValueError: a bug of ours", "logs/rank-1.log"]),
        ("freeze:1:3", 70, ["rank 1", "frozen"]),
        ("sleep:1:3", 70, ["rank 1", "sleep", "faulty_train.py"]),
        pytest.param("freeze:1:first", 70, ["rank 1", "checking"], marks=pytest.mark.slurm),
        pytest.param("freeze:0:last", 70, ["rank 0", "frozen"], marks=pytest.mark.slurm),
    ],
)
def test_a_failing_rank_ends_the_run_with_one_line_that_names_it(small_demo, tmp_path, fault, code, told):
    with faulty_run(small_demo, tmp_path / "run", fault) as (done, lines, seconds, events):
        assert done.returncode == code
        assert len(lines) == 1
        assert [part for part in told if part not in lines[0]] == []
        assert seconds < LONGEST_END_SECONDS + HANG_SECONDS
        assert [event["code"] for event in events if event["event"] == "verdict"] == [code]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_ends_the_run_with_one_line_and_keeps_what_was_saved(small_demo, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
    try:
        options = ("checkpoints.every_steps=1", "checkpoints.keep_last=9")
        with faulty_run(small_demo, disk / "run", "none:-1:0", *options) as (done, lines, _, events):
            assert done.returncode == 2
            assert len(lines) == 1
            assert "GB free" in lines[0] and str(disk) in lines[0]
            assert [event["code"] for event in events if event["event"] == "verdict"] == [2]
        saved = sorted(path.name for path in (disk / "run/checkpoints").glob("step-*/COMPLETE.json"))
        assert saved
    finally:
        subprocess.run(["umount", disk], check=True)


# thirty take minutes: make slurm-test has them
@pytest.mark.parametrize("runs", [4, pytest.param(30, marks=[pytest.mark.slurm, pytest.mark.timeout(900)])])
def test_a_finished_run_ends_with_0_each_time(small_demo, tmp_path, runs):
    options = ("tracking.wandb=disabled", "evaluation.every_steps=0", "training.steps=1", "checkpoints.every_steps=9")
    words = small_demo.recipe(tmp_path, *options)
    done = subprocess.run(
        [sys.executable, "tests/launch/many_runs.py", str(runs), str(tmp_path), *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [[0, 0]] * runs, done.stderr[-2000:]
    assert len(list(tmp_path.glob("*/FINISHED"))) == runs
