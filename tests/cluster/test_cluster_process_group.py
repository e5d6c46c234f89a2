"""Two real gloo ranks, started once: each writes what it saw, the tests read it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RANK = """
import json, sys
import torch
import torch.distributed as dist
from phi3v_dist.cluster.process_group import everyone, gather_on_rank_0, process_group, sum_over_ranks, together
from phi3v_dist.cluster.who import who_am_i
from phi3v_dist.console import run_command
from phi3v_dist.errors import RunError, ShardError

who, cpu = who_am_i(), torch.device("cpu")
saw = {}

def raised(action):
    try:
        together(action)
    except Exception as error:
        return [type(error).__name__, str(error)]

def fail_on(rank):
    if who.rank == rank:
        raise ShardError(f"rank {rank} is missing a shard", where="a.tar", value=(rank,), mend="Copy it.")
    return "fine"

def main():
    with process_group(who, "gloo", 1.0):
        saw["sizes"] = [dist.get_rank(), dist.get_world_size()]
        saw["together"] = together(lambda: 10 * who.rank)
        saw["raised"] = [raised(lambda: fail_on(1)), raised(lambda: fail_on(0)), raised(lambda: fail_on(2))]
        saw["sum"] = sum_over_ranks(torch.tensor([1.0, 0.1 * who.rank], dtype=torch.float64)).tolist()
        saw["everyone"] = [everyone(flag, cpu) for flag in (True, who.rank == 1, False)]
        saw["gather"] = gather_on_rank_0([who.rank, "ü"], who)
    saw["after"] = dist.is_initialized()
    with open(f"{sys.argv[1]}/{who.rank}.json", "w") as file:
        json.dump(saw, file)

sys.exit(run_command(main))
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder)],
            env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=100)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2)]


def test_both_ranks_are_in_one_group_and_end_with_code_0_without_it(ranks: list[dict[str, Any]]) -> None:
    assert [saw["sizes"] for saw in ranks] == [[0, 2], [1, 2]]
    assert [saw["after"] for saw in ranks] == [False, False]


def test_together_gives_each_rank_its_own_result(ranks: list[dict[str, Any]]) -> None:
    assert [saw["together"] for saw in ranks] == [0, 10]


def test_an_error_on_one_rank_is_the_same_error_on_both_and_the_group_goes_on(ranks: list[dict[str, Any]]) -> None:
    on_1 = ["ShardError", "a.tar: rank 1 is missing a shard (found (1,)). Copy it."]
    on_0 = ["ShardError", "a.tar: rank 0 is missing a shard (found (0,)). Copy it."]
    assert [saw["raised"] for saw in ranks] == [[on_1, on_0, None]] * 2


def test_sums_are_over_both_ranks_in_float64(ranks: list[dict[str, Any]]) -> None:
    assert [saw["sum"] for saw in ranks] == [[2.0, 0.1]] * 2


def test_everyone_is_true_only_where_both_are(ranks: list[dict[str, Any]]) -> None:
    assert [saw["everyone"] for saw in ranks] == [[True, False, False]] * 2


def test_values_are_gathered_in_the_order_of_ranks_on_rank_0_alone(ranks: list[dict[str, Any]]) -> None:
    assert [saw["gather"] for saw in ranks] == [[[0, "ü"], [1, "ü"]], None]


def test_a_run_of_one_needs_no_launcher() -> None:
    program = (
        "import torch, sys\n"
        "from phi3v_dist.cluster.process_group import process_group, together, gather_on_rank_0\n"
        "from phi3v_dist.cluster.who import ALONE\n"
        "with process_group(ALONE, 'gloo', 1.0):\n"
        "    print(together(lambda: 1), gather_on_rank_0('b', ALONE))\n"
    )
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    ended = subprocess.run([sys.executable, "-c", program], env=plain, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "1 ['b']\n"), ended.stderr
