"""Whatever dies, the run ends trained with each step once, or stops with a reason in one line; nothing is left over."""

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.mark.slurm_smoke
def test_a_warning_saves_requeues_and_resumes_as_if_nothing_had_been(new_case, undisturbed, survival) -> None:
    case = new_case("warning").submit("train_2node")
    case.reach(8)
    case.hit()
    case.cluster.command("scancel", "--batch", "--signal=USR1", case.job)
    case.restart()
    job = case.end()
    case.assert_trained(undisturbed.losses())
    assert job.state == "COMPLETED"
    assert job.restarts == 1
    assert case.steps_lost() == 0
    assert [event["code"] for event in case.events("verdict")] == [75]
    assert [event["decision"] for event in case.events("end")] == ["requeue", "nothing"]
    survival.add("warning (USR1) before the time limit", "saved, requeued, resumed", case.seconds_lost(), 0)
