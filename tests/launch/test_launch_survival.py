"""How a run of real ranks ends when one of them fails: one clear line, nobody left, the right exit code, in time.

The faults are those of faulty_train.py; everything else is the command as users start it.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from launching import DEEPSPEED, REPOSITORY, ranks_of_srun
from test_launch_train import error_lines, launch, wait_until

from phi3v_dist.cluster.process_group import free_port
from phi3v_dist.cluster.signals import SAME_REQUEST_SECONDS

FAULTY = "tests/launch/faulty_train.py"
SHORT = ("tracking.wandb=disabled", "evaluation.every_steps=0", "packing.packs_per_step=4", "training.steps=6")
HANG_SECONDS = 12
LONGEST_END_SECONDS = 90  # of a run whose whole start and steps take 15 s on a quiet machine


def recipe_of(small_demo, folder: Path, *options: str) -> list[str]:
    return small_demo.recipe(folder, *SHORT, f"training.hang_minutes={HANG_SECONDS / 60}", *options)


def verdicts(folder: Path) -> list[int]:
    events = [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]
    return [event["code"] for event in events if event["event"] == "verdict"]


def faulty_run(warm, words: list[str], fault: str) -> SimpleNamespace:
    """Exit codes of the ranks that weren't frozen, the lines they showed, and how long they ran.

    No launcher takes care of these ranks: each ends by itself and leaves nobody behind, beside a frozen one.
    """
    what, victim, _ = fault.split(":")
    started_at = time.monotonic()
    with warm.started(FAULTY, ranks_of_srun([words] * 2, FAULT=fault)) as started:
        frozen = [int(victim)] if what == "freeze" else []
        ending = [rank for rank in range(2) if rank not in frozen]
        assert wait_until(lambda: not any(psutil.pid_exists(started.pids[rank]) for rank in ending), 200)
        seconds = time.monotonic() - started_at
        stays = [psutil.Process(started.pids[rank]) for rank in frozen]
        stays += [loader for rank in stays for loader in rank.children(recursive=True)]
        assert wait_until(lambda: set(warm.alive()) == set(stays), 20), warm.alive()
    ended = [started.wait(0)[rank] for rank in ending]
    lines = error_lines("".join(rank.output for rank in ended))
    return SimpleNamespace(codes={rank.returncode for rank in ended}, lines=lines, seconds=seconds)


BUG = ("rank 1", "ValueError: a bug of ours", "logs/rank-1.log")
FROZEN = ("rank 1", "frozen")


# deepspeed's launcher waits half a minute for the ranks that are left: make slurm-test has that
@pytest.mark.slurm
@pytest.mark.parametrize(("fault", "code", "told"), [("raise:1:3", 1, BUG), ("freeze:1:3", 70, FROZEN)])
def test_under_deepspeed_a_failing_rank_ends_the_run_with_one_line_and_nobody_is_left(
    small_demo, tmp_path, fault, code, told
):
    words = recipe_of(small_demo, tmp_path / "run")
    done = launch([*DEEPSPEED, str(free_port()), FAULTY, *words], FAULT=fault, PYTHONPATH=str(REPOSITORY))
    assert done.code == code
    (line,) = error_lines(done.err + done.out)
    assert [part for part in told if part not in line] == []
    assert verdicts(tmp_path / "run") == [code]
    assert done.left == []


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        ("freeze:1:3", 70, FROZEN),
        pytest.param("sleep:1:3", 70, ["rank 1", "sleep", "faulty_train.py"], marks=pytest.mark.slurm),
        pytest.param("freeze:1:first", 70, ["rank 1", "checking"], marks=pytest.mark.slurm),
        pytest.param("freeze:0:last", 70, ["rank 0", "frozen"], marks=pytest.mark.slurm),
    ],
)
def test_a_failing_rank_ends_the_run_with_one_line_that_names_it(warm, small_demo, tmp_path, fault, code, told):
    found = faulty_run(warm, recipe_of(small_demo, tmp_path / "run"), fault)
    assert found.codes == {code}
    (line,) = found.lines
    assert [part for part in told if part not in line] == []
    assert found.seconds < LONGEST_END_SECONDS + HANG_SECONDS
    assert verdicts(tmp_path / "run") == [code]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_ends_the_run_with_one_line_and_keeps_what_was_saved(warm, small_demo, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
    try:
        words = recipe_of(small_demo, disk / "run", "checkpoints.every_steps=1", "checkpoints.keep_last=9")
        found = faulty_run(warm, words, "none:-1:0")
        assert found.codes == {2}
        (line,) = found.lines
        assert "GB free" in line and str(disk) in line
        assert verdicts(disk / "run") == [2]
        saved = sorted(path.name for path in (disk / "run/checkpoints").glob("step-*/COMPLETE.json"))
        assert saved
    finally:
        subprocess.run(["umount", disk], check=True)


# thirty take minutes: make slurm-test has them
@pytest.mark.parametrize("runs", [2, pytest.param(30, marks=[pytest.mark.slurm, pytest.mark.timeout(900)])])
def test_a_finished_run_ends_with_0_each_time(warm, small_demo, tmp_path, runs):
    options = ("tracking.wandb=disabled", "evaluation.every_steps=0", "training.steps=1", "checkpoints.every_steps=9")
    for number in range(runs):
        ended = warm.run("launch/train.py", *small_demo.recipe(tmp_path / str(number), *options))
        assert [rank.returncode for rank in ended] == [0, 0], ended[0].output + ended[1].output
    assert len(list(tmp_path.glob("*/FINISHED"))) == runs


def test_a_second_signal_ends_a_rank_at_once_inside_a_collective(warm, small_demo, tmp_path):
    words = small_demo.recipe(tmp_path / "run", *SHORT, "training.steps=400")
    with warm.started("launch/train.py", ranks_of_srun([words] * 2)) as started:
        first, other = (psutil.Process(pid) for pid in started.pids)
        steps = tmp_path / "run/metrics.jsonl"
        assert wait_until(lambda: steps.exists() and steps.read_text().count("\n") >= 2, 200)
        other.suspend()
        last = steps.read_text().count("\n") + 1
        assert not wait_until(lambda: steps.read_text().count("\n") > last, 3), "rank 0 waits for rank 1"
        first.send_signal(signal.SIGUSR1)
        assert not wait_until(
            lambda: not psutil.pid_exists(first.pid), SAME_REQUEST_SECONDS + 1
        )  # the first waits for all
        first.send_signal(signal.SIGUSR1)
        assert wait_until(lambda: not psutil.pid_exists(first.pid), 20)
        other.kill()
        ended, _ = started.wait(20)
    assert ended.returncode == 75
    assert "stopped at once by a second signal (SIGUSR1)" in ended.output
    assert verdicts(tmp_path / "run") == [75]
