"""Who am I: the place of this process in the run, as plain numbers, whatever started it.

Enters: the environment that Slurm's srun, deepspeed, torchrun or nobody set. Leaves: one ``ClusterInfo``. Together
with ``process_group`` this is the only reader of environment variables.

Legend::

    rank / num_ranks                   over the whole run
    rank_of_node / ranks_per_node      on this node (also the number of its GPU)
    node / num_nodes
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from phi3v_dist.errors import HardwareError


@dataclass(frozen=True)
class ClusterInfo:
    """See the module's legend. ``launcher``: "srun", "deepspeed", "torchrun" or "alone".

    ``node_name``: as Slurm knows it, else the host's name; ``node_names``: of all, in order, where they are known.
    ``attempt``: equal on all ranks of one start, another in the next one of the same Slurm job. ``job_end``: when
    Slurm's time limit ends the job (Unix seconds), if it is known.
    """

    rank: int
    num_ranks: int
    rank_of_node: int
    ranks_per_node: int
    launcher: str
    master_addr: str
    master_port: int
    node_name: str = field(default="", compare=False)
    node_names: tuple[str, ...] = field(default=(), compare=False)
    attempt: str = field(default="", compare=False)
    job_end: float | None = field(default=None, compare=False)

    @property
    def node(self) -> int:
        """Number of this node, from 0."""
        return self.rank // self.ranks_per_node

    @property
    def num_nodes(self) -> int:
        """Number of nodes of the run."""
        return -(-self.num_ranks // self.ranks_per_node)

    @property
    def is_rank_0(self) -> bool:
        """Whether this process speaks for the run."""
        return self.rank == 0


ALONE = ClusterInfo(0, 1, 0, 1, "alone", "127.0.0.1", 0)


def who_am_i(environment: Mapping[str, str] | None = None) -> ClusterInfo:
    """Read the launcher's variables: torchrun's or deepspeed's, else srun's, else none.

    Raises ``HardwareError`` when the variables contradict each other or are no numbers.
    """
    env = os.environ if environment is None else environment
    if "RANK" in env and "WORLD_SIZE" in env:
        launcher = "torchrun" if "TORCHELASTIC_RUN_ID" in env else "deepspeed"
        return _checked(
            rank=_number(env, "RANK"),
            num_ranks=_number(env, "WORLD_SIZE"),
            rank_of_node=_number(env, "LOCAL_RANK", 0),
            ranks_per_node=_number(env, "LOCAL_WORLD_SIZE", _deepspeed_ranks_per_node(env)),
            launcher=launcher,
            env=env,
        )
    # SLURM_STEP_ID is set for tasks of srun but not in the batch shell, where plain python may run too.
    if "SLURM_PROCID" in env and "SLURM_STEP_ID" in env:
        return _checked(
            rank=_number(env, "SLURM_PROCID"),
            num_ranks=_number(env, "SLURM_STEP_NUM_TASKS", _number(env, "SLURM_NTASKS", 1)),
            rank_of_node=_number(env, "SLURM_LOCALID", 0),
            ranks_per_node=_tasks_per_node(env),
            launcher="srun",
            env=env,
        )
    return replace(ALONE, **_place(env, f"{socket.gethostname()}.{os.getpid()}"))


def _place(env: Mapping[str, str], start: str) -> dict[str, Any]:
    """Where and when this process runs; ``start`` names the attempt where Slurm doesn't."""
    node_name = env.get("SLURMD_NODENAME") or socket.gethostname()
    if "SLURM_JOB_ID" in env:  # the restart count is unset in a job's first run
        start = f"{env['SLURM_JOB_ID']}.{env.get('SLURM_RESTART_COUNT', '0')}"
    job_end = _number(env, "PHI3V_JOB_END", 0)
    names = tuple(env.get("PHI3V_NODES", "").split())
    return {"node_name": node_name, "node_names": names, "attempt": start, "job_end": float(job_end) or None}


def _checked(
    *, rank: int, num_ranks: int, rank_of_node: int, ranks_per_node: int, launcher: str, env: Mapping[str, str]
) -> ClusterInfo:
    if not 0 <= rank < num_ranks or not 0 <= rank_of_node < ranks_per_node <= num_ranks:
        raise HardwareError(
            "the launcher's variables contradict each other",
            where=launcher,
            value=f"rank {rank} of {num_ranks}, local rank {rank_of_node} of {ranks_per_node}",
            mend="Start with deepspeed, torchrun, srun or plain python, and unset RANK and WORLD_SIZE otherwise.",
        )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in env]
    if num_ranks > 1 and missing:
        raise HardwareError(
            "several ranks need an address and a port to meet at",
            where=missing[0],
            mend="Export MASTER_ADDR (first node's name) and MASTER_PORT before srun, see README, Slurm.",
        )
    address = env.get("MASTER_ADDR", "127.0.0.1")
    port = _number(env, "MASTER_PORT", 0)
    place = _place(env, f"{address}.{port}")
    return ClusterInfo(rank, num_ranks, rank_of_node, ranks_per_node, launcher, address, port, **place)


def _deepspeed_ranks_per_node(env: Mapping[str, str]) -> int:
    """deepspeed's launcher sets LOCAL_SIZE; older ones nothing."""
    return _number(env, "LOCAL_SIZE", _number(env, "WORLD_SIZE", 1))


def _tasks_per_node(env: Mapping[str, str]) -> int:
    """SLURM_STEP_TASKS_PER_NODE reads like ``4(x8)`` or ``4,3``: the first number counts."""
    text = env.get("SLURM_STEP_TASKS_PER_NODE", env.get("SLURM_TASKS_PER_NODE", "1"))
    digits = text.split("(")[0].split(",")[0]
    return int(digits) if digits.isdigit() else 1


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise HardwareError(
            "not a whole number", where=f"environment variable {name}", value=text, mend="Unset or correct it."
        ) from None
