"""Two real ranks of which one is frozen, killed, asleep or raises: one line names it, and both are gone in time."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from phi3v_dist.cluster.process_group import free_port

SECONDS = 8.0
LONG_SECONDS = 100.0
# One process imports torch; the ranks are its forks, a pair per case. The frozen are killed when the others have ended.
RANKS = f"""
import json, os, signal, sys, time
import torch.distributed as dist
from phi3v_dist.cluster.deadline import Deadline
from phi3v_dist.cluster.process_group import process_group
from phi3v_dist.cluster.who import ClusterInfo

def run(rank, port, fate, victim):
    who = ClusterInfo(rank, 2, 0, 1, "srun", "127.0.0.1", port, node_name=f"n{{rank}}")
    with process_group(who, "gloo", 1.0):
        seconds = {LONG_SECONDS} if fate == "is frozen" else {SECONDS}  # a silent rank is not waited for so long
        deadline = Deadline(who, seconds, lambda nodes, line: print("blamed", *nodes, flush=True))
        try:
            deadline.at("own part")
            dist.barrier()
            if rank == victim and fate != "lives":
                time.sleep(1.5)  # heartbeats
                if fate == "is frozen":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if fate == "is killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if fate == "sleeps":
                    time.sleep(100)
                raise RuntimeError("a broken GPU")
            deadline.at("waits")
            dist.barrier()
        except Exception as error:
            deadline.fail(error)
        deadline.close()

started = {{}}
for fate, victim, port in json.loads(sys.argv[2]):
    for rank in range(2):
        name = f"{{fate}} {{victim}} {{rank}}"
        if (child := os.fork()) == 0:
            for number in (1, 2):
                os.dup2(os.open(f"{{sys.argv[1]}}/{{name}} {{number}}", os.O_WRONLY | os.O_CREAT), number)
            run(rank, port, fate, victim)
            sys.stdout.flush()
            os._exit(0)
        started[child] = name
codes, until = {{}}, time.monotonic() + 90
while len(codes) < len(started) and time.monotonic() < until:
    child, status = os.waitpid(-1, os.WNOHANG)
    if child:
        codes[started[child]] = os.waitstatus_to_exitcode(status)
    elif {{name for name in started.values() if name not in codes}} <= {{"is frozen 0 0", "is frozen 1 1"}}:
        break  # the frozen themselves
    time.sleep(0.05)
for child in started:
    if started[child] not in codes:
        os.kill(child, signal.SIGKILL)
print(json.dumps(codes))
"""
SILENT = "doesn't answer any more"
CASES = {
    ("is frozen", 0): f"rank 0 on node 127.0.0.1 {SILENT}",
    ("is frozen", 1): f"rank 1 on node n1 {SILENT}",
    ("is killed", 0): f"rank 0 on node 127.0.0.1 {SILENT}",
    ("is killed", 1): f"rank 1 on node n1 {SILENT}",
    ("sleeps", 1): "rank 1 on node n1 is still in 'own part', the others wait",
    ("raises", 0): "rank 0 on node n0 failed in 'own part': RuntimeError: a broken GPU",
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], SimpleNamespace]:
    """How each pair of ranks ended; all at a time, since all they do is wait."""
    folder = tmp_path_factory.mktemp("ends")
    cases = [*CASES, ("lives", 0)]
    told = json.dumps([[fate, victim, free_port()] for fate, victim in cases])
    command = [sys.executable, "-c", RANKS, str(folder), told]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    codes = json.loads(done.stdout)

    def texts(fate: str, victim: int, number: int) -> list[str]:
        return [Path(folder, f"{fate} {victim} {rank} {number}").read_text() for rank in range(2)]

    return {
        (fate, victim): SimpleNamespace(
            codes=[codes.get(f"{fate} {victim} {rank}") for rank in range(2)],
            out="".join(texts(fate, victim, 1)),
            errors=[x for text in texts(fate, victim, 2) for x in text.splitlines() if x.startswith("ERROR")],
            raw=texts(fate, victim, 2),
        )
        for fate, victim in cases
    }


@pytest.mark.parametrize(("fate", "victim"), CASES)
def test_the_guilty_rank_is_named_in_one_line_and_the_others_end_with_70(ends, fate, victim):
    end = ends[fate, victim]
    of_victim = {"is frozen": None, "is killed": -9}.get(fate, 70)
    assert (end.codes[victim], end.codes[1 - victim]) == (of_victim, 70), end.raw
    assert len(end.errors) == 1, end.raw
    assert end.errors[0].startswith(f"ERROR preflight: {CASES[fate, victim]}")


@pytest.mark.parametrize(("fate", "victim"), CASES)
def test_the_caller_is_told_the_guilty_node(ends, fate, victim):
    assert f"blamed {CASES[fate, victim].split()[4]}\n" in ends[fate, victim].out


def test_ranks_that_come_in_time_are_left_alone(ends):
    assert ends["lives", 0].codes == [0, 0]
    assert ends["lives", 0].errors == []
