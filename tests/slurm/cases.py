"""A training job on the virtual cluster, and what became of it: the words that the tests of survival are written in.

Enters: the cluster, the demo's shards and model. Leaves: a ``Case``: a job submitted with the scripts that users
submit, looked at from outside (metrics, attempts, processes), and its line of the table of survival.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster_records import ClusterFault
from launching import REPOSITORY
from virtual_cluster import JobState, VirtualCluster, wait_until

from phi3v_dist.tracking.metrics import METRICS_FILE, REPLAYED_FILE, read_metrics
from phi3v_dist.training.attempts import read_events

STEPS = 24
EVERY_STEPS = 6
# Two ranks make two micro-steps of a step, which then takes about a second: long enough to be hit in the middle.
OPTIONS = (
    "packing.packs_per_step=4",
    "packing.pack_tokens=256",
    f"training.steps={STEPS}",
    f"checkpoints.every_steps={EVERY_STEPS}",
    "checkpoints.spare_seconds=5",
    "evaluation.every_steps=0",
    "tracking.wandb=disabled",
    "tracking.console_every=5",
)
START_SECONDS = 240.0  # several jobs' worth: eight ranks import torch on two cores
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@dataclass
class Table:
    """Rows of the table of survival, written after each."""

    path: Path
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, fault: str, what_happened: str, seconds_lost: float | None, steps_lost: int | None) -> None:
        seconds = "–" if seconds_lost is None else f"{seconds_lost:.0f}"
        self.rows.append((fault, what_happened, seconds, "–" if steps_lost is None else str(steps_lost)))
        header = [("fault", "what happened", "seconds lost", "steps done again"), ("---",) * 4]
        lines = ["| " + " | ".join(row) + " |" for row in (*header, *self.rows)]
        self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class Case:
    """One run folder and the job that trains in it."""

    def __init__(self, cluster: VirtualCluster, demo: Any, folder: Path) -> None:
        self.cluster, self.demo, self.folder = cluster, demo, folder
        self.run_folder, self.log = folder / "train", folder / "job.log"
        self.job = 0
        self.fault_time = 0.0
        self.fault_step = 0
        folder.mkdir(parents=True, exist_ok=True)

    # -- before and during

    def submit(
        self, script: str, *overrides: str, slurm: tuple[str, ...] = (), run_folder: Path | None = None, **site: Any
    ) -> "Case":
        """Submit a script of slurm/, as a user does. ``slurm``: options of sbatch; ``site``: see ``write_site``."""
        self.run_folder = run_folder or self.run_folder
        environment = job_environment(write_site(self.folder, **site))
        _, recipe, *options = self.demo.recipe(self.run_folder, *OPTIONS, *overrides)
        self.recipe = Path(shutil.copy(recipe, self.folder / "recipe.yaml"))
        words = ("--output", self.log, *slurm, f"slurm/{script}.sh", f"recipe={self.recipe}", *options)
        self.job = self.cluster.sbatch(*words, cwd=REPOSITORY, env=environment)
        return self

    def steps(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl."""
        return read_metrics(self.run_folder / METRICS_FILE)

    def reach(self, step: int, timeout: float = START_SECONDS) -> None:
        """Wait until this step stands in metrics.jsonl."""
        self._wait(lambda: any(line["step"] >= step for line in self.steps()), timeout, f"step {step}")

    def restart(self, times: int = 1, timeout: float = START_SECONDS) -> JobState:
        """Wait until the job runs again; the delay after a requeue is not waited for twice."""
        return self.cluster.wait_for(self.job, "RUNNING", *ENDED, restarts=times, timeout=timeout)

    def hit(self) -> None:
        """The fault comes now."""
        self.fault_time = time.time()
        self.fault_step = max((line["step"] for line in self.steps()), default=0)

    def nodes(self) -> list[str]:
        return self.cluster.job(self.job).nodes

    def ranks(self, node: str) -> list[int]:
        """Pids of the training ranks on a node, the loader's processes left out."""
        found = self.cluster.tasks(node, "launch/train.py")
        parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in found}
        return [pid for pid in found if parents[pid] not in found]

    def preempt(self) -> None:
        """A short job of the higher partition wants the nodes."""
        nodes = ",".join(self.nodes())
        short = ("--nodes=2", "--exclusive", f"--nodelist={nodes}", "--partition=high", "--output=/dev/null")
        self.cluster.sbatch(*short, "--wrap", "sleep 5")

    def in_start_up(self, seconds: float = 3.0) -> str:
        """Wait until ranks have begun to start; a node that is not the batch node."""
        node = self.nodes_of_running()[1]
        self._wait(lambda: self.ranks(node), START_SECONDS, "rank")
        time.sleep(seconds)
        return node

    def in_a_save(self, step: int) -> None:
        """Wait until the save of this step is being written."""
        partial = self.run_folder / "checkpoints" / f".step-{step}.partial"
        ended = time.monotonic() + START_SECONDS
        while not partial.exists():
            if time.monotonic() > ended:
                raise ClusterFault(f"no save of step {step}\n{self.tail()}")
            time.sleep(0.002)

    def pause_until(self, job_seconds: float) -> None:
        """Stop every rank, and let them go on this long after the job's start."""
        pids = [pid for node in self.nodes() for pid in self.ranks(node)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        started = datetime.fromisoformat(self.cluster.job(self.job).fields["StartTime"]).timestamp()
        time.sleep(max(0.0, started + job_seconds - time.time()))
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    def nodes_of_running(self) -> list[str]:
        self.cluster.wait_for(self.job, "RUNNING", timeout=60)
        return self.nodes()

    def _wait(self, what: Callable[[], object], timeout: float, wanted: str) -> None:
        def arrived() -> object:
            found = what()
            if not found and (now := self.cluster.job(self.job)).state in ENDED:
                raise ClusterFault(f"job {self.job} is {now.state} before {wanted}\n{self.tail()}")
            return found

        wait_until(arrived, timeout, lambda: f"no {wanted} yet, job {self.job}\n{self.tail()}", every=0.1)

    def tail(self, lines: int = 60) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else "(no log)"
        return "\n".join(text.splitlines()[-lines:])

    # -- after

    def end(self, timeout: float = 400) -> JobState:
        """Wait until the job has ended and will not run again, and its nodes are free."""

        def ended() -> JobState | None:
            now = self.cluster.job(self.job)
            if now.state not in ENDED:
                return None
            time.sleep(2.0)  # on its way back into the queue a job looks ended for a moment
            return now if self.cluster.job(self.job).state == now.state else None

        last = wait_until(ended, timeout, lambda: f"job {self.job} goes on\n{self.tail()}", every=1.0)
        wait_until(lambda: self.left_over() == [], 90, lambda: f"processes left over: {self.left_over()}")
        return last

    def left_over(self) -> list[str]:
        """Processes of nodes beside their slurmd, while no job runs."""
        lines = []
        for node in self.cluster.nodes:
            for pid in self.cluster.pids(node):
                command = Path(f"/proc/{pid}/cmdline")
                if command.exists():
                    lines.append(f"{node} {pid} {command.read_bytes().decode(errors='replace')[:80]!r}")
        return lines

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.run_folder) if event["event"] == kind]

    def losses(self) -> dict[int, float]:
        return {line["step"]: line["loss"] for line in self.steps()}

    def steps_lost(self) -> int:
        """Steps that were done more than once."""
        return len({line["step"] for line in self.replayed()})

    def replayed(self) -> list[dict[str, Any]]:
        """First doings of steps that were done again."""
        return read_metrics(self.run_folder / REPLAYED_FILE)

    def seconds_lost(self) -> float:
        """From the fault until the run did its first step that it had not done before, less a step's usual time."""
        lines = self.steps()
        begun = [event["time"] for event in self.events("begin")]
        again = [started for started in begun if self.fault_time < started < lines[-1]["time"]]
        resumed = again[-1] if again else self.fault_time
        before = [line["step"] for line in (*lines, *self.replayed()) if line["time"] <= resumed]
        first = next(line for line in lines if line["time"] > resumed and line["step"] > max(before, default=0))
        usual = sorted(line["step_seconds"] for line in lines)[len(lines) // 2]
        return first["time"] - self.fault_time - usual

    def errors(self) -> list[str]:
        """Lines of the job's log that say why something ended."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith(("ERROR", "STOPPED"))]

    def assert_trained(self, reference: dict[int, float] | None = None) -> None:
        """The run is finished, each step stands once in the metrics, and, if given, with the reference's losses."""
        assert (self.run_folder / "FINISHED").exists(), self.tail()
        steps = [line["step"] for line in self.steps()]
        assert steps == list(range(1, STEPS + 1)), f"{steps}\n{self.tail()}"
        if reference is not None:
            assert self.losses() == reference


def write_site(folder: Path, *, gpus: int = 0, attempts: int = 3, preflight: str = "no", extra: str = "") -> Path:
    """The settings of the repository, made fit for the virtual cluster; ``extra``: lines that come last."""
    lines = [
        (REPOSITORY / "slurm/site.env").read_text(),
        f"GPUS_PER_NODE={gpus}",
        "CPUS_PER_TASK=1",
        f"PYTHON={sys.executable}",
        f"PREFLIGHT={preflight}",
        f"MAX_ATTEMPTS_WITHOUT_PROGRESS={attempts}",
        extra,
    ]
    site = folder / "site.env"
    site.write_text("\n".join(lines) + "\n")
    return site


def job_environment(site: Path) -> dict[str, str]:
    """What a user's shell would hold: the checkout's package, one thread per rank, no GPU."""
    return {
        "PHI3V_SITE_ENV": str(site),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "USER": "root",
    }
