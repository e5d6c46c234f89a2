import multiprocessing
from dataclasses import replace

import pytest

from phi3v_dist.cluster.who import ALONE
from phi3v_dist.errors import RunError
from phi3v_dist.training.attempts import (
    ATTEMPTS,
    Decision,
    blame_node,
    decide_begin,
    decide_end,
    jobs_at_work,
    killed_node,
    last_words,
    latest_begin,
    nodes_to_exclude,
    read_events,
    tell_begin,
    tell_end,
    tell_verdict,
)


def begin(attempt: str, step: int, nodes: tuple[str, ...] = ("n1", "n2")) -> dict:
    return {"event": "begin", "attempt": attempt, "step": step, "nodes": list(nodes)}


def verdict(attempt: str, code: int, reason: str = "why") -> dict:
    return {"event": "verdict", "attempt": attempt, "rank": 0, "node": "n1", "code": code, "reason": reason}


def blame(attempt: str, node: str, *, certain: bool = False) -> dict:
    return {"event": "blame", "attempt": attempt, "node": node, "reason": f"{node} in {attempt}", "certain": certain}


def end(attempt: str, srun_code: int | None = 0, ending: str = "running") -> dict:
    told = {"decision": "requeue", "reason": "", "step": 0, "ending": ending}
    return {"event": "end", "attempt": attempt, "srun_code": srun_code, **told}


# -- the file


def test_what_is_told_is_read_back_in_order(tmp_path) -> None:
    who = replace(ALONE, rank=3, node_name="n2", attempt="7.1")
    tell_begin(tmp_path, "7.1", ["n1", "n2"], 20)
    tell_verdict(tmp_path, who, 70, "gone")
    blame_node(tmp_path, who, "n1", "slow", certain=True)
    tell_end(tmp_path, "7.1", Decision("requeue", "gone"), step=25, srun_code=143, ending="running")
    told = read_events(tmp_path)
    assert [event.pop("time") > 0 for event in told] == [True] * 4
    assert told == [
        {"event": "begin", "attempt": "7.1", "nodes": ["n1", "n2"], "step": 20},
        {"event": "verdict", "attempt": "7.1", "rank": 3, "node": "n2", "code": 70, "reason": "gone"},
        {"event": "blame", "attempt": "7.1", "node": "n1", "reason": "slow", "certain": True},
        end("7.1", 143) | {"reason": "gone", "step": 25},
    ]


def test_a_torn_line_hides_no_other(tmp_path) -> None:
    tell_begin(tmp_path, "7.0", ["n1"], 0)
    with open(tmp_path / ATTEMPTS, "a") as handle:
        handle.write('[]\n{"event": "blame"}\n{"event": "verd')
    tell_begin(tmp_path, "7.1", ["n1"], 0)
    assert [event["attempt"] for event in read_events(tmp_path)] == ["7.0", "7.1"]


def test_telling_where_nothing_can_be_written_raises_nothing(tmp_path) -> None:
    tell_verdict(tmp_path / "nowhere", ALONE, 1, "why")
    assert read_events(tmp_path / "nowhere") == []


def test_a_begin_or_an_end_that_the_disk_has_no_room_for_is_an_error_and_a_verdict_is_not(tmp_path) -> None:
    (tmp_path / ATTEMPTS).symlink_to("/dev/full")
    tell_verdict(tmp_path, ALONE, 1, "why")
    with pytest.raises(RunError, match=f"{ATTEMPTS}: can't be written: No space left on device. Free space"):
        tell_begin(tmp_path, "7.0", ["n1"], 0)
    with pytest.raises(RunError, match="No space left on device"):
        tell_end(tmp_path, "7.0", Decision("requeue", "gone"), step=0, srun_code=1, ending="running")


def _tell_many(folder) -> None:
    for number in range(50):
        tell_verdict(folder, ALONE, number, "x" * 2000)


def test_ranks_that_tell_at_once_lose_no_line(tmp_path) -> None:
    processes = [multiprocessing.get_context("spawn").Process(target=_tell_many, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(event["code"] for event in read_events(tmp_path)) == sorted(list(range(50)) * 3)


# -- begin


def decided_begin(events: list[dict], attempt: str, *, step: int, finished: bool = False) -> Decision:
    return decide_begin(events, attempt, finished=finished, step=step, most_attempts=3)


def test_a_finished_run_is_not_started_again() -> None:
    assert decided_begin([], "7.0", step=40, finished=True).action == "nothing"


@pytest.mark.parametrize(
    ("steps", "now", "action"),
    [
        ([], 0, "start"),
        ([0, 0], 0, "start"),
        ([0, 0, 0], 0, "stop"),
        ([0, 0, 0], 10, "start"),
        ([0, 10, 10], 10, "start"),
        ([0, 10, 10, 10], 10, "stop"),
    ],
)
def test_three_attempts_without_a_new_step_are_enough(steps: list[int], now: int, action: str) -> None:
    events = [begin(f"7.{number}", step) for number, step in enumerate(steps)]
    assert decided_begin([*events, begin("7.9", now)], "7.9", step=now).action == action


def test_the_stop_tells_why_the_last_attempt_ended() -> None:
    events = [begin(f"7.{number}", 0) for number in range(3)]
    events[3:] = [verdict("7.1", 1, "other"), verdict("7.2", 75, "asked"), verdict("7.2", 70, "n2 is gone")]
    assert decided_begin(events, "7.3", step=0).reason.endswith("the last one: n2 is gone")


def test_a_job_that_is_submitted_again_starts_counting_again() -> None:
    events = [begin(f"7.{number}", 0) for number in range(3)]
    assert decided_begin(events, "8.0", step=0).action == "start"


def test_an_attempt_that_was_turned_away_is_not_counted() -> None:
    events = [begin("7.0", 0), begin("7.1", 0), begin("7.2", 0), end("7.2", srun_code=None)]
    assert decided_begin(events, "7.3", step=0).action == "start"


def test_an_attempt_whose_nodes_slurm_took_away_is_not_counted() -> None:
    events = [begin(f"7.{number}", 0) for number in range(3)]
    assert decided_begin([*events, end("7.1", ending="running")], "7.3", step=0).action == "stop"
    assert decided_begin([*events, end("7.1", ending="requeued")], "7.3", step=0).action == "start"


# -- end


def decided_end(events: list[dict], **how: object) -> Decision:
    return decide_end(events, "7.0", **{"finished": False, "ending": "running", **how})


@pytest.mark.parametrize(
    ("codes", "action"),
    [([], "requeue"), ([75], "requeue"), ([70, 70], "requeue"), ([1], "requeue"), ([2], "stop"), ([70, 2, 75], "stop")],
)
def test_only_what_a_person_must_mend_stops_the_job(codes: list[int], action: str) -> None:
    events = [begin("7.0", 0), *(verdict("7.0", code, f"code {code}") for code in codes)]
    decision = decided_end(events)
    assert decision.action == action
    if action == "stop":
        assert decision.reason == "code 2"


def test_verdicts_of_other_attempts_do_not_count() -> None:
    assert decided_end([verdict("6.0", 2), verdict("7.1", 2)]).action == "requeue"


def test_a_cancelled_job_is_left_alone_and_a_finished_one_is_done() -> None:
    assert decided_end([verdict("7.0", 75)], ending="cancelled").action == "leave"
    assert decided_end([], ending="cancelled", finished=True).action == "nothing"


@pytest.mark.parametrize("ending", ["time limit", "requeued"])
def test_what_slurm_ends_goes_on_later(ending: str) -> None:
    assert decided_end([], ending=ending).action == "requeue"


# -- nodes


def test_a_node_is_left_out_after_two_attempts_or_when_it_was_measured() -> None:
    once = [blame("7.0", "n1"), blame("7.0", "n1"), blame("7.0", "n2")]
    assert nodes_to_exclude(once) == {}
    assert nodes_to_exclude([*once, blame("7.1", "n2")]) == {"n2": "n2 in 7.1"}
    assert nodes_to_exclude([blame("7.0", "n3", certain=True)]) == {"n3": "n3 in 7.0"}


@pytest.mark.parametrize(
    ("said", "node"),
    [
        ("srun: error: n2: task 1: Killed\n", "n2"),
        ("[W] a rank's words\nsrun: error: gpu-04: task 33: Bus error (core dumped)\n", "gpu-04"),
        ("srun: error: n1: task 0: Segmentation fault\nsrun: error: n2: task 1: Killed\n", "n1"),
        # the others are killed after the first has ended by itself
        ("srun: error: n1: task 0: Exited with exit code 70\nsrun: error: n2: task 1: Killed\n", None),
        ("srun: error: n1: task 0: Terminated\n", None),
        ("srun: error: n[1-2]: tasks 0-1: Killed\n", None),
        ("srun: error: Node failure on n2\n", None),
        ("", None),
    ],
)
def test_the_node_whose_task_a_signal_killed_first_is_found(said: str, node: str | None) -> None:
    found = killed_node(said)
    assert (found and found[0]) == node


def test_a_rank_that_told_no_verdict_has_last_words() -> None:
    said = (
        "Traceback (most recent call last):\n  File\nImportError: no module x\nsrun: error: n1: task 0: Exited with 1\n"
    )
    assert last_words(said) == "ImportError: no module x"
    assert (
        last_words("srun: error: n1: task 0: Exited with exit code 1\n")
        == "srun: error: n1: task 0: Exited with exit code 1"
    )
    assert last_words("[W] a warning\n") == ""
    assert decided_end([], last_words=last_words(said)).reason == "ImportError: no module x"
    assert decided_end([verdict("7.0", 70, "told")], last_words=last_words(said)).reason == "told"


def test_the_attempt_before_is_the_last_that_called_srun() -> None:
    events = [begin("7.0", 0), begin("8.0", 0), end("8.0", srun_code=None), begin("7.1", 0)]
    before = latest_begin(events, "7.1")
    assert before is not None
    assert before["attempt"] == "7.0"
    assert latest_begin([begin("7.1", 0)], "7.1") is None


def test_of_two_jobs_that_begin_at_once_the_second_gives_way() -> None:
    events = [begin("7.0", 0), begin("8.0", 0)]
    assert jobs_at_work(events, "8.0") == ["7"]
    assert jobs_at_work(events, "7.0") == []


def test_a_job_that_told_of_its_end_is_not_at_work_and_one_that_began_again_is() -> None:
    events = [begin("7.0", 0), end("7.0"), begin("6.0", 0)]
    assert jobs_at_work([*events, begin("8.0", 0)], "8.0") == ["6"]
    assert jobs_at_work([*events, begin("7.1", 0), begin("8.0", 0)], "8.0") == ["7", "6"]
