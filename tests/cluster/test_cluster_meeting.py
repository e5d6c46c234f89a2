"""Real ranks of which some never come: one line names them, and the others end in time."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from phi3v_dist.cluster.process_group import free_port

SECONDS = 12.0
LONG_SECONDS = 100.0
# One process imports torch; the ranks are its forks, two on each of three nodes.
RANKS = f"""
import json, os, signal, sys, time
from phi3v_dist.cluster.meeting import Meeting
from phi3v_dist.cluster.process_group import process_group
from phi3v_dist.cluster.who import ClusterInfo

def run(rank, port, names, fate):
    port += fate == "cut off" and rank in (4, 5)  # where nobody listens
    who = ClusterInfo(rank, 6, rank % 2, 2, "srun", "127.0.0.1", port, "abc"[rank // 2], tuple(names))
    seconds = {SECONDS} if fate else {LONG_SECONDS}
    meeting = Meeting(who, seconds, lambda nodes, line: print("blamed", *sorted(nodes), flush=True))
    if fate == "asleep" and rank == 5:
        time.sleep(100)
    with process_group(who, "gloo", 1.0):
        meeting.over()

begin, all_are_there = os.pipe()
started = {{}}
for case, (missing, names, fate, port) in json.loads(sys.argv[2]).items():
    for rank in set(range(6)) - set(missing):
        name = f"{{case}} {{rank}}"
        if (child := os.fork()) == 0:
            for number in (1, 2):
                os.dup2(os.open(f"{{sys.argv[1]}}/{{name}} {{number}}", os.O_WRONLY | os.O_CREAT), number)
            os.close(all_are_there)
            os.read(begin, 1)
            run(rank, port, names, fate)
            sys.stdout.flush()
            os._exit(0)
        started[child] = case
os.close(all_are_there)
codes = {{}}
while started:
    child, status = os.wait()
    case = started.pop(child)
    codes.setdefault(case, []).append(os.waitstatus_to_exitcode(status))
    for other in [other for other, its in started.items() if its == case == "cut off"]:
        os.kill(other, signal.SIGKILL)  # as srun ends all when the first ends
print(json.dumps(codes))
"""
CASES = {  # ranks that never come, names of nodes, what else is wrong
    "a node": ([2, 3], "abc", "missing"),
    "a rank": ([5], "abc", "missing"),
    "rank 0": ([0, 1], "abc", "missing"),
    "most": ([2, 3, 4, 5], "abc", "missing"),
    "unnamed": ([3], "", "missing"),
    "dealt otherwise": ([3], "acb", "missing"),
    "cut off": ([], "abc", "cut off"),
    "asleep": ([], "abc", "asleep"),
    "nobody": ([], "abc", ""),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimpleNamespace]:
    """How the ranks of each case ended; all at a time, since all they do is wait."""
    folder = tmp_path_factory.mktemp("ends")
    told = {case: [*what, free_port()] for case, what in CASES.items()}
    command = [sys.executable, "-c", RANKS, str(folder), json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    codes = json.loads(done.stdout)

    def lines(case: str, number: int, start: str) -> list[str]:
        texts = [path.read_text() for path in sorted(Path(folder).glob(f"{case} * {number}"))]
        return [line for text in texts for line in text.splitlines() if line.startswith(start)]

    return {
        case: SimpleNamespace(
            codes=codes[case],
            blamed=lines(case, 1, "blamed"),
            errors=lines(case, 2, "ERROR"),
        )
        for case in CASES
    }


@pytest.mark.parametrize(
    ("case", "told", "blamed"),
    [
        ("a node", "ranks 2-3 on node b", "blamed b"),
        ("a rank", "rank 5 on node c", "blamed c"),
        ("most", "ranks 2-5 on nodes b, c", "blamed"),
        ("unnamed", "rank 3 on node number 1", "blamed"),
        ("dealt otherwise", "rank 3 on node number 1", "blamed"),
    ],
)
def test_who_did_not_come_is_named_in_one_line_and_blamed_unless_most_are_missing(ends, case, told, blamed):
    assert set(ends[case].codes) == {70}
    (line,) = ends[case].errors
    assert line.startswith(f"ERROR {told} didn't come to 127.0.0.1:")
    assert ends[case].blamed == [blamed]


def test_a_node_that_is_cut_off_is_blamed_and_accuses_nobody(ends):
    end = ends["cut off"]
    assert 70 in end.codes
    (line,) = end.errors
    assert line.startswith("ERROR ranks 4-5 on node c didn't come to 127.0.0.1:")
    assert end.blamed == ["blamed c"]


def test_where_all_came_and_cannot_talk_the_network_is_at_fault_and_nobody_is_blamed(ends):
    assert set(ends["asleep"].codes) == {70}
    (line,) = ends["asleep"].errors
    assert line.startswith("ERROR all ranks came to 127.0.0.1:") and "NETWORK_INTERFACE" in line
    assert ends["asleep"].blamed == ["blamed"]


def test_without_rank_0_each_node_says_so_and_blames_its_node(ends):
    end = ends["rank 0"]
    assert set(end.codes) == {70}
    assert [line.partition(",")[0].rpartition(":")[0] for line in end.errors] == [
        f"ERROR node {node}: nobody listens at 127.0.0.1" for node in "bc"
    ]
    assert all("rank 0 on node a" in line for line in end.errors)
    assert end.blamed == ["blamed a"] * 2


def test_ranks_that_come_in_time_are_left_alone(ends):
    assert set(ends["nobody"].codes) == {0}
    assert ends["nobody"].errors == ends["nobody"].blamed == []
