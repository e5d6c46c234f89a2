"""Environments as launchers set them (deepspeed 0.19 ``launcher/launch.py``, torch 2.13 ``local_elastic_agent.py``,
Slurm's srun) become plain numbers; what contradicts itself is refused before anybody waits for anybody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.cluster.who import ALONE, ClusterInfo, who_am_i
from phi3v_dist.errors import HardwareError

MEETING = {"MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
DEEPSPEED = MEETING | {
    "WORLD_SIZE": "8",
    "CROSS_RANK": "1",
    "CROSS_SIZE": "2",
    "LOCAL_SIZE": "4",
    "RANK": "6",
    "LOCAL_RANK": "2",
}
TORCHRUN = MEETING | {
    "RANK": "6",
    "GROUP_RANK": "1",
    "ROLE_RANK": "6",
    "ROLE_NAME": "default",
    "LOCAL_WORLD_SIZE": "4",
    "LOCAL_RANK": "2",
    "WORLD_SIZE": "8",
    "GROUP_WORLD_SIZE": "2",
    "ROLE_WORLD_SIZE": "8",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_MAX_RESTARTS": "0",
    "TORCHELASTIC_RUN_ID": "none",
}
BATCH_SHELL = {
    "SLURM_JOB_ID": "17",
    "SLURM_NTASKS": "8",
    "SLURM_NNODES": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "1(x8)",
    "SLURM_JOB_NODELIST": "n[1-8]",
}
SRUN = (
    BATCH_SHELL
    | MEETING
    | {
        "SLURM_PROCID": "5",
        "SLURM_NODEID": "5",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_TASKS_PER_NODE": "1(x8)",
        "SLURM_STEP_NODELIST": "n[1-8]",
    }
)


@pytest.mark.parametrize(("environment", "launcher"), [(DEEPSPEED, "deepspeed"), (TORCHRUN, "torchrun")])
def test_third_process_of_the_second_of_two_nodes_is_rank_6_of_8(environment: dict[str, str], launcher: str) -> None:
    who = who_am_i(environment)
    assert who == ClusterInfo(6, 8, 2, 4, launcher, "n1", 29500)
    assert (who.node, who.num_nodes, who.is_rank_0) == (1, 2, False)


def test_sixth_task_of_one_on_each_of_eight_nodes_is_rank_5_on_node_5() -> None:
    who = who_am_i(SRUN)
    assert who == ClusterInfo(5, 8, 0, 1, "srun", "n1", 29500)
    assert (who.node, who.num_nodes) == (5, 8)


@pytest.mark.parametrize(
    ("text", "per_node", "nodes"), [("4(x2)", 4, 2), ("4,4", 4, 2), ("4(x1),4", 4, 2), ("8", 8, 1)]
)
def test_tasks_per_node_are_read_as_slurm_writes_them(text: str, per_node: int, nodes: int) -> None:
    who = who_am_i(SRUN | {"SLURM_STEP_TASKS_PER_NODE": text, "SLURM_PROCID": "7", "SLURM_LOCALID": "3"})
    assert (who.ranks_per_node, who.num_nodes) == (per_node, nodes)


def test_a_step_smaller_than_its_job_counts_its_own_tasks() -> None:
    step = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    who = who_am_i(SRUN | step)
    assert (who.rank, who.num_ranks, who.num_nodes) == (1, 2, 2)


def test_deepspeed_or_torchrun_inside_srun_comes_before_srun() -> None:
    assert who_am_i(SRUN | DEEPSPEED).launcher == "deepspeed"
    assert who_am_i(SRUN | TORCHRUN).launcher == "torchrun"


@pytest.mark.parametrize("environment", [{}, {"PATH": "/bin"}, BATCH_SHELL, {"RANK": "3"}, {"WORLD_SIZE": "2"}])
def test_plain_python_is_alone_also_in_the_batch_shell_of_a_job(environment: dict[str, str]) -> None:
    assert who_am_i(environment) == ALONE
    assert (ALONE.is_rank_0, ALONE.node, ALONE.num_nodes) == (True, 0, 1)


def test_without_an_argument_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DEEPSPEED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert who_am_i() == who_am_i(DEEPSPEED)


@pytest.mark.parametrize(
    "change",
    [
        {"RANK": "8"},
        {"RANK": "-1"},
        {"WORLD_SIZE": "0"},
        {"LOCAL_RANK": "4"},
        {"LOCAL_WORLD_SIZE": "0", "LOCAL_RANK": "0"},
        {"LOCAL_WORLD_SIZE": "9"},
    ],
)
def test_numbers_that_contradict_each_other_are_refused_and_shown(change: dict[str, str]) -> None:
    with pytest.raises(HardwareError, match="contradict") as caught:
        who_am_i(TORCHRUN | change)
    assert next(iter(change.values())) in str(caught.value.value)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"])
@pytest.mark.parametrize("text", ["", "two", "1.5"])
def test_what_is_no_whole_number_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(HardwareError, match=f"environment variable {name}: not a whole number"):
        who_am_i(DEEPSPEED | {name: text})


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
@pytest.mark.parametrize("environment", [DEEPSPEED, SRUN])
def test_several_ranks_without_a_place_to_meet_are_refused(environment: dict[str, str], missing: str) -> None:
    with pytest.raises(HardwareError, match=f"^{missing}: several ranks"):
        who_am_i({name: value for name, value in environment.items() if name != missing})


def test_one_rank_needs_no_place_to_meet() -> None:
    alone = {name: value for name, value in SRUN.items() if not name.startswith("MASTER")}
    one_task = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
    assert who_am_i(alone | one_task) == ClusterInfo(0, 1, 0, 1, "srun", "127.0.0.1", 0)


@given(st.integers(1, 5), st.integers(1, 8))
def test_ranks_of_a_run_are_numbered_once_each_node_by_node(nodes: int, per_node: int) -> None:
    found = []
    for node in range(nodes):
        for local in range(per_node):
            rank = node * per_node + local
            numbers = {"RANK": rank, "WORLD_SIZE": nodes * per_node, "LOCAL_RANK": local, "LOCAL_SIZE": per_node}
            who = who_am_i(MEETING | {name: str(number) for name, number in numbers.items()})
            assert (who.node, who.num_nodes) == (node, nodes)
            found.append(who.rank)
    assert found == list(range(nodes * per_node))


def test_a_requeued_job_is_another_attempt_on_a_node_that_slurm_names() -> None:
    first, second = who_am_i(SRUN | {"SLURMD_NODENAME": "n6"}), who_am_i(SRUN | {"SLURM_RESTART_COUNT": "1"})
    assert (first.node_name, first.attempt, second.attempt) == ("n6", "17.0", "17.1")


@pytest.mark.parametrize(("told", "end"), [({}, None), ({"PHI3V_JOB_END": "1800000000"}, 1_800_000_000.0)])
def test_the_end_of_the_job_is_known_when_the_batch_script_tells_it(told: dict[str, str], end: float | None) -> None:
    assert who_am_i(SRUN | told).job_end == end


def test_the_names_of_all_nodes_are_those_that_the_job_script_tells() -> None:
    assert who_am_i(SRUN | {"PHI3V_NODES": "n1 n2 n7 "}).node_names == ("n1", "n2", "n7")
    assert who_am_i(SRUN).node_names == ()
