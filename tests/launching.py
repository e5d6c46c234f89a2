"""Starts commands the ways users start them."""

import os
import subprocess
import sys
from pathlib import Path

from phi3v_dist.cluster.process_group import free_port

REPOSITORY = Path(__file__).parents[1]
DEEPSPEED = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]


def run_tool(*words: object) -> subprocess.CompletedProcess:
    """Run a script of the repository with this Python, from the repository's folder."""
    return run([sys.executable, *map(str, words)])


def with_deepspeed(*arguments: str) -> list[str]:
    return [*DEEPSPEED, str(free_port()), "launch/train.py", *arguments]


def with_torchrun(*arguments: str) -> list[str]:
    return [*TORCHRUN, str(free_port()), "launch/train.py", *arguments]


def run(command: list[str], timeout: float = 240) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False)


def run_like_srun(script: str, *arguments: str, ranks: int = 2) -> list[subprocess.CompletedProcess]:
    """Start ``ranks`` tasks with the environment that srun gives each."""
    port = str(free_port())
    tasks = []
    for rank in range(ranks):
        told = {
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_ID": "0",
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_NTASKS": str(ranks),
            "SLURM_STEP_NUM_TASKS": str(ranks),
            "SLURM_STEP_TASKS_PER_NODE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, script, *arguments]
        tasks.append(
            subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=os.environ | told,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return [
        subprocess.CompletedProcess(task.args, task.wait(), output)
        for task in tasks
        for output in [task.communicate(timeout=240)[0]]
    ]
