"""What the batch script asks of Slurm and tells it: thin calls of scontrol, squeue and sinfo.

Enters: the environment of a batch job. Leaves: the job's place and state as plain values, and a requeue. A job that is
being ended shows as COMPLETING whatever the reason, so ``how_it_ends`` tells a person's scancel from the rest by what
else Slurm says (measured on 22.05, see docs/measurements/survival.md). A Slurm that doesn't answer is no error here:
a query returns nothing known, and the caller decides without it.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from phi3v_dist.errors import HardwareError

_ANSWER_SECONDS = 60.0
_SPACING_SECONDS = 1.0
_TIME_LIMIT_EARLY_SECONDS = 2.0  # Slurm's clock and ours, and the seconds that Slurm rounds off

Ending = Literal["running", "requeued", "time limit", "cancelled"]


@dataclass(frozen=True)
class SlurmJob:
    """This batch job. ``restarts``: how often it was requeued before; ``end``: its time limit (Unix seconds)."""

    job_id: str
    restarts: int
    nodes: list[str]
    end: float | None

    @property
    def attempt(self) -> str:
        """As in ``ClusterInfo.attempt``."""
        return f"{self.job_id}.{self.restarts}"


def this_job(environment: Mapping[str, str] | None = None) -> SlurmJob:
    """Read the variables that sbatch gives a job. Raises ``HardwareError`` outside of one."""
    env = os.environ if environment is None else environment
    if "SLURM_JOB_ID" not in env:
        mend = "Submit a script of slurm/ with sbatch."
        raise HardwareError("not inside a Slurm job", where="SLURM_JOB_ID", mend=mend)
    nodes = _ask("scontrol", "show", "hostnames", env.get("SLURM_JOB_NODELIST", "")).split()
    end = float(env.get("PHI3V_JOB_END") or 0) or None
    return SlurmJob(env["SLURM_JOB_ID"], int(env.get("SLURM_RESTART_COUNT") or 0), nodes, end)


def how_it_ends(job: SlurmJob, now: float | None = None) -> Ending:
    """Whether and why Slurm is ending this job."""
    return read_ending(_fields(job.job_id), job, time.time() if now is None else now)


def read_ending(fields: Mapping[str, str], job: SlurmJob, now: float) -> Ending:
    """The same from what ``scontrol show job`` said.

    A requeue (by preemption, a lost node, a person) has counted the restart before the script's TERM comes; at the time
    limit and at scancel the count stays, and the clock tells one from the other.
    """
    if int(fields.get("Restarts", job.restarts)) > job.restarts:
        return "requeued"
    if fields.get("JobState", "RUNNING") == "RUNNING":
        return "running"
    late = job.end is not None and now > job.end - _TIME_LIMIT_EARLY_SECONDS
    return "time limit" if late else "cancelled"


def running_jobs(job_ids: Iterable[str]) -> set[str]:
    """Those of these jobs that run now."""
    # One by one: of several, squeue says nothing where the first is forgotten already.
    return {
        job_id
        for job_id in job_ids
        if _ask("squeue", "--noheader", "--jobs", job_id, "--states", "RUNNING", "--format", "%i").strip()
    }


def down_nodes(nodes: Sequence[str]) -> dict[str, str]:
    """Node → its state, of nodes that are down or don't answer (``*``)."""
    if not nodes:
        return {}
    told = _ask("sinfo", "--noheader", "--all", "--Node", "--nodes", ",".join(nodes), "--format", "%N %T")
    states = dict(line.split(maxsplit=1) for line in told.splitlines() if " " in line)
    return {node: state.strip() for node, state in states.items() if state.startswith("down") or "*" in state}


def nodes_of_partition(job_id: str) -> set[str]:
    """All nodes that the job's partition has, up or down; empty where Slurm doesn't say."""
    partition = _fields(job_id).get("Partition", "")
    return set(_ask("sinfo", "--noheader", "--Node", "--partition", partition, "--format", "%N").split())


def requeue(job_id: str) -> bool:
    """Put the job back into the queue; Slurm then ends this run of it. Whether it is in the queue now."""
    done = _call("scontrol", "requeue", job_id)
    return done.returncode == 0 or "pending" in done.stderr


def exclude_nodes(job_id: str, nodes: Iterable[str], seconds: float = 10.0) -> bool:
    """Leave nodes out of the next run of a requeued job, beside those that are left out already."""
    before = _fields(job_id).get("ExcNodeList", "(null)")
    wanted = ",".join([*([] if before == "(null)" else [before]), *nodes])
    until = time.monotonic() + seconds
    # "Job is no longer pending execution" until Slurm has taken in the requeue
    while _call("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={wanted}").returncode != 0:
        if time.monotonic() > until:
            return False
        time.sleep(_SPACING_SECONDS)
    return True


def _fields(job_id: str) -> dict[str, str]:
    told = _ask("scontrol", "show", "job", job_id, "--oneliner").partition("\n")[0]
    return dict(re.findall(r"(\S+?)=(\S*)", told))


def _ask(*words: str) -> str:
    return _call(*words).stdout


def _call(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))
