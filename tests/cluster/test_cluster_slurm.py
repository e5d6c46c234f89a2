"""The words of Slurm 22.05, as they were seen on a virtual cluster. Against a real one: tests/slurm."""

import pytest

from phi3v_dist.cluster.slurm import SlurmJob, read_ending, requeue, running_jobs, this_job
from phi3v_dist.errors import HardwareError

JOB = SlurmJob("7", restarts=1, nodes=["n1"], end=1000.0)


@pytest.mark.parametrize(
    ("state", "restarts", "now", "ending"),
    [
        ("RUNNING", 1, 500.0, "running"),
        ("COMPLETING", 1, 500.0, "cancelled"),
        ("COMPLETING", 1, 1012.0, "time limit"),
        ("COMPLETING", 2, 500.0, "requeued"),
        ("PENDING", 2, 1012.0, "requeued"),
    ],
)
def test_the_count_of_restarts_and_the_clock_tell_why_a_job_ends(
    state: str, restarts: int, now: float, ending: str
) -> None:
    assert read_ending({"JobState": state, "Restarts": str(restarts)}, JOB, now) == ending


def test_a_job_without_a_limit_ends_by_a_persons_hand() -> None:
    assert read_ending({"JobState": "COMPLETING", "Restarts": "0"}, SlurmJob("7", 0, [], None), 9e9) == "cancelled"


def test_a_slurm_that_does_not_answer_ends_no_job() -> None:
    assert read_ending({}, JOB, 500.0) == "running"


def test_the_attempt_counts_restarts_from_zero() -> None:
    assert this_job({"SLURM_JOB_ID": "7"}).attempt == "7.0"
    job = this_job({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2", "PHI3V_JOB_END": "1795632517"})
    assert (job.attempt, job.end) == ("7.2", 1795632517.0)


def test_outside_of_a_job_one_line_says_so() -> None:
    with pytest.raises(HardwareError, match="not inside a Slurm job"):
        this_job({})


def test_commands_that_are_missing_or_fail_say_nothing(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert running_jobs(["7"]) == set()
    assert requeue("7") is False
