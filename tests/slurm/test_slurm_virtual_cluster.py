"""The virtual cluster itself: what it takes down, and what it finds of a run that was killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_records import RECORDS, clean_up_leftovers, run
from virtual_cluster import VirtualCluster, wait_until, what_is_missing

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing()),
]
PROGRAM = """
import sys, time
sys.path.append(sys.argv[1])
from virtual_cluster import virtual_cluster
with virtual_cluster(num_nodes=2) as cluster:
    print(cluster.number, cluster.folder, flush=True)
    time.sleep(300)
"""


def start() -> tuple[subprocess.Popen, int, Path]:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number, folder = process.stdout.readline().split()
    return process, int(number), Path(folder)


def spaces(number: int) -> list[str]:
    names = [line.split()[0] for line in run("ip", "netns", "list").stdout.splitlines()]
    return [name for name in names if name.startswith(f"phi3v{number}-")]


def traces(number: int, folder: Path) -> list[object]:
    """Everything that a cluster can leave behind."""
    processes = [path for path in Path("/proc").glob("[0-9]*/environ") if str(folder).encode() in _read(path)]
    return [*spaces(number), *filter(Path.exists, [RECORDS / f"{number}.json", folder]), *processes]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM], ids=lambda end: end.name)
def test_nothing_is_left_after_an_interruption(end: signal.Signals) -> None:
    process, number, folder = start()
    assert len(spaces(number)) == 3
    process.send_signal(end)
    process.wait(60)
    wait_until(lambda: traces(number, folder) == [], 10, lambda: f"{traces(number, folder)}")


def test_what_a_killed_run_left_is_found_and_taken_down() -> None:
    process, number, folder = start()
    process.kill()
    process.wait(60)
    assert traces(number, folder) != []
    clean_up_leftovers()
    wait_until(lambda: traces(number, folder) == [], 10, lambda: f"{traces(number, folder)}")


def test_two_clusters_do_not_meet(whole_cluster: VirtualCluster) -> None:
    with VirtualCluster(num_nodes=1) as other:
        assert other.number != whole_cluster.number
        assert other.command("sinfo", "-h", "-N", "-p", "main", "-o", "%N").split() == ["n1"]
        assert len(whole_cluster.command("sinfo", "-h", "-N", "-p", "main", "-o", "%N").split()) == 9


def test_a_node_that_loses_power_loses_its_processes_and_comes_back(cluster: VirtualCluster) -> None:
    job = cluster.sbatch("--nodes=1", "--nodelist=n2", "--no-requeue", "--output=/dev/null", "--wrap", "sleep 300")
    wait_until(lambda: cluster.tasks("n2", "sleep", "300"), 20, lambda: "no task")
    cluster.power_off("n2")
    wait_until(lambda: cluster.pids("n2") == [], 5, lambda: f"{cluster.pids('n2')}")
    cluster.wait_for(job, "NODE_FAIL", timeout=90)
    cluster.power_on("n2")
    wait_until(lambda: cluster.node_state("n2") == "idle", 60, lambda: cluster.node_state("n2"))


def test_a_node_that_is_cut_off_keeps_its_processes(cluster: VirtualCluster) -> None:
    cluster.sbatch("--nodes=1", "--nodelist=n3", "--no-requeue", "--output=/dev/null", "--wrap", "sleep 300")
    wait_until(lambda: cluster.tasks("n3", "sleep", "300"), 20, lambda: "no task")
    cluster.cut("n3")
    wait_until(lambda: cluster.node_state("n3").startswith("down"), 90, lambda: cluster.node_state("n3"))
    assert cluster.tasks("n3", "sleep", "300")
    cluster.reconnect("n3")
    wait_until(lambda: cluster.tasks("n3", "sleep", "300") == [], 60, lambda: "the stray task lives on")
