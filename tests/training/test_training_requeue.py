"""What holds where Slurm does not answer; with one that does: tests/slurm."""

import os
import resource
from collections.abc import Iterator
from dataclasses import replace

import pytest

from phi3v_dist.cluster.slurm import SlurmJob
from phi3v_dist.cluster.who import ALONE
from phi3v_dist.errors import RunError
from phi3v_dist.training.attempts import ATTEMPTS, mark_finished, read_events, tell_begin, tell_verdict
from phi3v_dist.training.requeue import begin_job, end_job

JOB = SlurmJob("7", restarts=3, nodes=["n1", "n2"], end=None)


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def test_the_first_attempt_makes_the_run_folder(tmp_path) -> None:
    assert begin_job(tmp_path / "runs/shop", JOB, most_attempts=3) is True
    (told,) = read_events(tmp_path / "runs/shop")
    assert (told["event"], told["attempt"], told["nodes"], told["step"]) == ("begin", "7.3", ["n1", "n2"], 0)


def test_a_run_folder_that_cannot_be_made_is_one_line(tmp_path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="the run folder can't be made"):
        begin_job(tmp_path / "runs/shop", JOB, most_attempts=3)


def test_a_finished_run_does_not_start(tmp_path) -> None:
    mark_finished(tmp_path, 40)
    assert begin_job(tmp_path, JOB, most_attempts=3) is False
    assert [event["event"] for event in read_events(tmp_path)] == ["begin", "end"]


def test_attempts_that_get_nowhere_end_with_the_reason(tmp_path) -> None:
    for number in range(3):
        tell_begin(tmp_path, f"7.{number}", ["n1"], 0)
    tell_verdict(tmp_path, replace(ALONE, attempt="7.2"), 70, "another rank is gone")
    with pytest.raises(RunError, match=r"3 attempts in a row saved no step beyond 0.*another rank is gone.*Mend"):
        begin_job(tmp_path, JOB, most_attempts=3)
    assert read_events(tmp_path)[-1]["decision"] == "stop"


def test_the_end_of_a_finished_run_requeues_nothing(tmp_path) -> None:
    mark_finished(tmp_path, 40)
    assert end_job(tmp_path, JOB, srun_code=0).action == "nothing"


def test_what_a_person_must_mend_is_said_again_at_the_end(tmp_path) -> None:
    tell_verdict(tmp_path, replace(ALONE, attempt="7.3"), 2, "loss is not finite")
    with pytest.raises(RunError, match=r"attempt 7\.3: loss is not finite"):
        end_job(tmp_path, JOB, srun_code=143)
    assert read_events(tmp_path)[-1] | {"time": 0} == {
        "event": "end",
        "attempt": "7.3",
        "time": 0,
        "srun_code": 143,
        "decision": "stop",
        "reason": "loss is not finite",
        "step": 0,
        "ending": "running",
    }


def test_a_requeue_that_slurm_refuses_is_said(tmp_path) -> None:
    with pytest.raises(RunError, match="Slurm refuses to requeue"):
        end_job(tmp_path, JOB, srun_code=143)


@pytest.fixture
def most_file_bytes() -> Iterator[int]:
    """No file of this process can grow beyond it. (/dev/full takes no byte either, but reading it never ends.)"""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000_000, before[1]))
    yield 16_000_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_events_that_cannot_be_written_stop_the_job_instead_of_starting_it_for_ever(tmp_path, most_file_bytes) -> None:
    (tmp_path / ATTEMPTS).touch()
    os.truncate(tmp_path / ATTEMPTS, most_file_bytes)
    with pytest.raises(RunError, match=f"{ATTEMPTS}: can't be written: File too large"):
        begin_job(tmp_path, JOB, most_attempts=3)
    with pytest.raises(RunError, match="can't be written"):
        end_job(tmp_path, JOB, srun_code=1)


def test_a_node_whose_task_was_killed_is_blamed(tmp_path) -> None:
    mark_finished(tmp_path, 40)
    end_job(tmp_path, JOB, srun_code=137, srun_errors="srun: error: n2: task 1: Killed\n")
    assert [(event["node"], event["reason"]) for event in read_events(tmp_path) if event["event"] == "blame"] == [
        ("n2", "task 1: Killed")
    ]
