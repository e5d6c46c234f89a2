"""Whatever dies, the run ends trained with each step once, or stops with a reason in one line; nothing is left over.

Each test hits a training job on the virtual cluster, and writes its line into the table of survival.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator

import pytest
from cases import EVERY_STEPS, Case
from virtual_cluster import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def trained_after(case: Case, fault: str, survival, undisturbed, what: str = "requeued, resumed") -> None:
    """The job went on by itself to the end, with the losses of a run that nothing happened to."""
    job = case.end()
    case.assert_trained(undisturbed.losses())
    assert job.state == "COMPLETED"
    survival.add(fault, what, case.seconds_lost(), case.steps_lost())


@pytest.mark.slurm_smoke
@pytest.mark.timeout(480)  # with the cluster's start and the demo's making: what the smoke may take
def test_a_warning_saves_requeues_and_resumes_as_if_nothing_had_been(new_case, undisturbed, survival) -> None:
    case = new_case("warning").submit("train_2node", "tracking.wandb=offline")
    case.reach(8)
    case.recipe.write_text("run_folder: [of the next run, in the middle of being written")
    case.hit()
    case.cluster.command("scancel", "--batch", "--signal=USR1", case.job)
    case.restart()
    trained_after(case, "warning (USR1)", survival, undisturbed, "saved at once, requeued, resumed")
    assert case.steps_lost() == 0
    assert [event["code"] for event in case.events("verdict")] == [75]
    assert [event["decision"] for event in case.events("end")] == ["requeue", "nothing"]
    files = sorted((case.run_folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1, "both attempts are the same W&B run"


def test_eight_nodes_train(new_case, survival) -> None:
    case = new_case("eight").submit("train_8node", "packing.packs_per_step=8", "checkpoints.every_steps=12")
    started = time.time()
    assert case.end(timeout=800).state == "COMPLETED"
    case.assert_trained()
    assert "8 ranks on 8 nodes" in case.log.read_text()
    survival.add("none: 8 nodes", f"trained in {time.time() - started:.0f} s, start-up included", None, 0)


def test_preemption_with_a_warning_loses_no_step(new_case, undisturbed, survival) -> None:
    case = new_case("preempted").submit("train_2node", slurm=("--nodelist=n[1-2]",))
    case.reach(8)
    case.hit()
    case.preempt()
    case.restart()
    trained_after(case, "preemption, 20 s of grace", survival, undisturbed, "saved at once, requeued, resumed")
    assert case.steps_lost() == 0


def test_preemption_without_grace_resumes(new_case, undisturbed, survival) -> None:
    case = new_case("preempted-hard").submit("train_2node", slurm=("--nodelist=n[1-2]", "--partition=nograce"))
    case.reach(8)
    case.hit()
    case.preempt()
    case.restart()
    trained_after(case, "preemption without grace (TERM, 5 s later KILL)", survival, undisturbed)
    assert case.steps_lost() <= EVERY_STEPS


def test_ranks_stop_before_the_time_limit_without_a_warning(new_case, undisturbed, survival) -> None:
    # URG does nothing: no warning, the ranks know the end from Slurm alone
    case = new_case("limit").submit("train_2node", slurm=("--time=2", "--signal=B:URG@1"))
    case.reach(8)
    case.pause_until(95)
    case.hit()
    case.restart()
    trained_after(
        case, "time limit without a warning", survival, undisturbed, "saved before the limit, requeued, resumed"
    )
    assert "stopped for the job's time limit" in " ".join(case.errors())
    assert case.steps_lost() == 0


def test_a_time_limit_that_ranks_cannot_obey_requeues_all_the_same(new_case, undisturbed, survival) -> None:
    case = new_case("limit-frozen").submit("train_2node", slurm=("--time=1", "--signal=B:URG@1"))
    os.kill(case.ranks(case.in_start_up())[0], signal.SIGSTOP)
    case.hit()
    case.cluster.wait_for(case.job, "PENDING", "COMPLETING", "RUNNING", restarts=1, timeout=300)
    case.cluster.command("scontrol", "update", f"JobId={case.job}", "TimeLimit=60")
    trained_after(case, "time limit while a rank is frozen in start-up", survival, undisturbed)
    assert "the time limit" in case.events("end")[0]["reason"]


def test_scontrol_requeue_resumes(new_case, undisturbed, survival) -> None:
    case = new_case("requeued").submit("train_2node")
    case.reach(8)
    case.hit()
    case.cluster.command("scontrol", "requeue", case.job)
    case.restart()
    trained_after(case, "scontrol requeue", survival, undisturbed)
    assert case.steps_lost() <= EVERY_STEPS


def test_a_cancelled_job_stays_cancelled_and_keeps_its_steps(new_case, survival) -> None:
    case = new_case("cancelled").submit("train_2node")
    case.reach(8)
    case.cluster.command("scancel", case.job)
    job = case.end()
    time.sleep(8)  # the delay after a requeue
    assert (job.state, case.cluster.job(case.job).state) == ("CANCELLED", "CANCELLED")
    assert [event["decision"] for event in case.events("end")] == ["leave"]
    survival.add("scancel", "saved, not requeued", None, 0)


@pytest.mark.parametrize("which", ["batch", "other"])
def test_a_node_that_loses_power_in_a_step_is_replaced(new_case, undisturbed, survival, which: str) -> None:
    case = new_case(f"power-{which}").submit("train_2node")
    case.reach(8)
    lost = case.nodes()[0 if which == "batch" else 1]
    case.hit()
    case.cluster.power_off(lost)
    case.restart()
    assert lost not in case.nodes()
    trained_after(case, f"power off in a step ({which} node)", survival, undisturbed)
    assert case.steps_lost() <= EVERY_STEPS
    assert lost in {event["node"] for event in case.events("blame")}


def test_a_node_that_loses_power_in_a_save_leaves_no_half_checkpoint(new_case, undisturbed, survival) -> None:
    case = new_case("power-save").submit("train_2node")
    case.reach(EVERY_STEPS + 1)
    lost = case.nodes()[1]
    case.in_a_save(2 * EVERY_STEPS)
    case.cluster.power_off(lost)
    case.hit()
    case.restart()
    trained_after(case, "power off in a save", survival, undisturbed)
    assert case.steps_lost() <= EVERY_STEPS


def test_a_node_that_loses_power_in_start_up_is_replaced(new_case, undisturbed, survival) -> None:
    case = new_case("power-start").submit("train_2node")
    node = case.in_start_up()
    case.hit()
    case.cluster.power_off(node)
    case.restart()
    trained_after(case, "power off in start-up", survival, undisturbed)


def test_a_node_that_is_cut_off_is_replaced_and_comes_back(new_case, undisturbed, survival) -> None:
    case = new_case("cut").submit("train_2node")
    case.reach(8)
    lost = case.nodes()[1]
    case.hit()
    case.cluster.cut(lost)
    time.sleep(30)
    case.cluster.reconnect(lost)
    case.restart()
    trained_after(case, "network cut for 30 s", survival, undisturbed)
    wait_until(lambda: case.cluster.node_state(lost) == "idle", 60, lambda: f"{lost} does not come back")


def test_a_short_cut_of_the_network_costs_only_its_time(new_case, undisturbed, survival) -> None:
    case = new_case("cut-short").submit("train_2node")
    case.reach(8)
    case.hit()
    lost = case.nodes()[1]
    case.cluster.cut(lost)
    time.sleep(3)
    case.cluster.reconnect(lost)
    trained_after(case, "network cut for 3 s", survival, undisturbed, "went on")
    assert case.cluster.job(case.job).restarts == 0


def test_a_killed_rank_ends_all_and_blames_its_node(new_case, undisturbed, survival) -> None:
    case = new_case("killed").submit("train_2node")
    case.reach(8)
    node = case.nodes()[1]
    case.hit()
    os.kill(case.ranks(node)[0], signal.SIGKILL)
    case.restart()
    trained_after(case, "one rank killed (kill -9)", survival, undisturbed)
    assert {event["node"] for event in case.events("blame")} == {node}
    assert case.steps_lost() <= EVERY_STEPS


def test_a_frozen_rank_is_named_and_the_run_goes_on(new_case, undisturbed, survival) -> None:
    case = new_case("frozen").submit("train_2node", "training.hang_minutes=0.5")
    case.reach(8)
    node = case.nodes()[1]
    case.hit()
    os.kill(case.ranks(node)[0], signal.SIGSTOP)
    case.restart(timeout=300)
    trained_after(case, "one rank frozen (SIGSTOP), hang_minutes 0.5", survival, undisturbed)
    assert {event["node"] for event in case.events("blame")} == {node}


def test_a_full_disk_stops_with_the_reason_and_goes_on_once_there_is_room(
    new_case, cluster, undisturbed, survival
) -> None:
    case = new_case("full-disk")
    filler = cluster.small_disk / "filler"
    filler.write_bytes(bytes(34_000_000))  # of 48 MB: room for one checkpoint of 10 MB
    case.submit("train_2node", run_folder=cluster.small_disk / "train")
    job = case.end()
    assert (job.state, job.restarts) == ("FAILED", 0)
    stopped = case.errors()[-1]
    assert stopped.startswith("ERROR attempt")
    needed = re.search(r"the next checkpoint needs [\d.]+ GB and this disk has [\d.]+ GB free", stopped)
    assert needed, stopped
    survival.add("scratch disk full", f"stopped: {needed[0]}", None, None)
    filler.unlink()
    case.submit("train_2node", run_folder=cluster.small_disk / "train").end()
    case.assert_trained(undisturbed.losses())


def test_a_disk_without_a_byte_left_stops_the_job_instead_of_starting_it_for_ever(
    new_case, cluster, undisturbed, survival
) -> None:
    case = new_case("no-byte").submit("train_2node", run_folder=cluster.small_disk / "train")
    case.reach(8)
    filler = cluster.small_disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    job = case.end()
    assert (job.state, job.restarts) == ("FAILED", 0)
    stopped = case.errors()[-1]
    assert "can't be written: No space left on device" in stopped
    survival.add("scratch disk full to the last byte", "stopped: no space left", None, None)
    filler.unlink()
    case.submit("train_2node", run_folder=case.run_folder).end()
    case.assert_trained(undisturbed.losses())


def test_where_requeue_is_forbidden_a_chain_of_jobs_goes_on(new_case, undisturbed, survival) -> None:
    case = new_case("chain")
    chained = ("--no-requeue", "--job-name=chain", "--dependency=singleton")
    first = case.submit("train_2node", slurm=chained).job
    second = case.submit("train_2node", slurm=chained).job
    third = case.submit("train_2node", slurm=chained).job
    case.job = first
    case.reach(8)
    case.hit()
    case.cluster.command("scancel", "--batch", "--signal=USR1", first)
    case.cluster.wait_for(first, "FAILED", timeout=120)
    assert "Slurm refuses to requeue the job. Submit it again." in case.log.read_text()
    case.job = second
    trained_after(case, "warning, where requeue is forbidden", survival, undisturbed, "saved, resumed by the next job")
    assert case.steps_lost() == 0
    assert case.cluster.wait_for(third, "COMPLETED", timeout=120).exit_code == 0
    assert [event["event"] for event in case.events("begin")] == ["begin"] * 3


@pytest.fixture(autouse=True)
def small_disk_is_empty(whole_cluster) -> Iterator[None]:
    yield
    whole_cluster.empty_small_disk()


def test_preflight_looks_first_and_training_follows(new_case, undisturbed) -> None:
    case = new_case("preflight").submit("train_2node", preflight="yes")
    assert case.end().state == "COMPLETED"
    case.assert_trained(undisturbed.losses())
    text = case.log.read_text()
    looked = re.search(r"preflight of 2 ranks on 2 nodes: nothing is wrong, (\d+) s", text)
    assert looked and looked.start() < text.index("started by srun")
    assert int(looked[1]) < 60, "seconds; the longest that a preflight may take"


def test_a_node_that_never_comes_is_named_blamed_and_left_out_after_two_attempts(new_case, survival) -> None:
    # n2's rank never gets as far as the meeting: of three nodes, the other two wait for it
    container = (
        "CONTAINER=(bash -c '[ $SLURMD_NODENAME != n2 ] || sleep 600; exec \"$@\"' -)\nPYTHON_IN_CONTAINER=$PYTHON"
    )
    case = new_case("absent").submit("train_2node", slurm=("--nodes=3",), preflight="yes", attempts=5, extra=container)
    case.hit()
    assert case.end().state == "COMPLETED"
    case.assert_trained()
    assert "on node n2 didn't come to n1:" in case.log.read_text()
    assert [event["node"] for event in case.events("blame")] == ["n2", "n2"]
    assert case.cluster.job(case.job).fields["ExcNodeList"] == "n2"
    survival.add("a node whose rank never comes", "left out after two attempts, trained", case.seconds_lost(), 0)


def test_a_preflight_that_can_blame_no_single_node_stops_the_job(new_case, survival) -> None:
    case = new_case("floors")
    case.submit("train_2node", preflight="yes", attempts=2, extra="MIN_NETWORK_BANDWIDTH_GBPS=1000000")
    job = case.end()
    assert (job.state, job.exit_code) == ("FAILED", 2)
    assert not (case.run_folder / "metrics.jsonl").exists()
    assert [event["decision"] for event in case.events("end")] == ["stop"]
    assert case.events("blame") == []  # of a pair nobody knows which is slow
    survival.add("network of two nodes below the floor, seen by preflight", "stopped", None, None)


def test_a_node_that_preflight_finds_bad_is_left_out_at_once(new_case, survival) -> None:
    case = new_case("bad-node")
    other = case.folder / "other/transformers-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 9.9.9\n")
    change = f"[ $SLURMD_NODENAME != n2 ] || export PYTHONPATH={other.parent}:$PYTHONPATH"
    container = f"CONTAINER=(bash -c '{change}; exec \"$@\"' -)\nPYTHON_IN_CONTAINER=$PYTHON"
    # of three nodes, two against one tell which is the bad one
    case.submit("train_2node", slurm=("--nodes=3",), preflight="yes", extra=container)
    case.hit()
    assert case.end().state == "COMPLETED"
    case.assert_trained()
    survival.add("a node with other software", "left out, requeued, trained", case.seconds_lost(), 0)
    assert [event["node"] for event in case.events("blame")] == ["n2"]
    assert "left out from the next attempt: n2" in case.log.read_text()
    assert case.cluster.job(case.job).fields["ExcNodeList"] == "n2"
