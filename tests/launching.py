"""Starts commands the ways users start them, and ranks in forks of a process that has imported torch already."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from phi3v_dist.cluster.process_group import free_port

REPOSITORY = Path(__file__).parents[1]
DEEPSPEED = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
LAUNCHERS_OWN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run_tool(*words: object) -> subprocess.CompletedProcess:
    """Run a script of the repository with this Python, from the repository's folder."""
    return run([sys.executable, *map(str, words)])


def with_deepspeed(*arguments: str) -> list[str]:
    return [*DEEPSPEED, str(free_port()), "launch/train.py", *arguments]


def with_torchrun(*arguments: str) -> list[str]:
    return [*TORCHRUN, str(free_port()), "launch/train.py", *arguments]


def run(command: list[str], timeout: float = 240) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False)


@dataclass(frozen=True)
class Rank:
    """What one process is started with; ``environment``: beside that of the tests."""

    arguments: Sequence[object]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = REPOSITORY


@dataclass(frozen=True)
class Ended:
    """How a rank ended; named as in ``subprocess.CompletedProcess``."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def ranks_of_srun(
    arguments: Sequence[Sequence[object]], folders: Sequence[Path] = (), nodes: int = 1, **environment: str
) -> list[Rank]:
    """A rank for each list of arguments, with the environment that srun gives its tasks on so many nodes."""
    port, num_ranks = str(free_port()), len(arguments)
    per_node = num_ranks // nodes
    return [
        Rank(
            arguments[rank],
            environment
            | {
                "SLURM_JOB_ID": "7",
                "SLURM_STEP_ID": "0",
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": str(rank % per_node),
                "SLURM_NTASKS": str(num_ranks),
                "SLURM_STEP_NUM_TASKS": str(num_ranks),
                "SLURM_STEP_TASKS_PER_NODE": f"{per_node}(x{nodes})",
                "SLURMD_NODENAME": f"node{rank // per_node}",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            folders[rank] if folders else REPOSITORY,
        )
        for rank in range(num_ranks)
    ]


class WarmStarter:
    """Starts ranks as forks of one process, which has imported all that takes long (warm_starter.py)."""

    def __init__(self, folder: Path) -> None:
        """``folder``: for the outputs of the ranks."""
        self._folder, self._starts = folder, 0
        self._environment = {name: value for name, value in os.environ.items() if name not in LAUNCHERS_OWN}
        self._process = subprocess.Popen(
            [sys.executable, "tests/warm_starter.py"],
            cwd=REPOSITORY,
            env=self._environment | {"PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that select sees each answer
        )
        assert self._answer(240) == "warm"

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)

    def run(self, script: str | Path, *arguments: object, ranks: int = 2, timeout: float = 240) -> list[Ended]:
        """Run a script to its end as ``ranks`` tasks of srun."""
        with self.started(script, ranks_of_srun([arguments] * ranks)) as started:
            return started.wait(timeout)

    def run_alone(self, script: str | Path, *arguments: object, timeout: float = 240) -> Ended:
        """Run a script to its end as plain Python does."""
        with self.started(script, [Rank(arguments)]) as started:
            return started.wait(timeout)[0]

    @contextmanager
    def started(self, script: str | Path, ranks: Sequence[Rank]) -> Iterator["Started"]:
        """Start the ranks; whatever of them lives at the end of the block is killed."""
        self._starts += 1
        told = []
        for number, rank in enumerate(ranks):
            files = {name: str(self._folder / f"{self._starts}-{number}.{name}") for name in ("out", "err")}
            words = {"arguments": list(map(str, rank.arguments)), "folder": str(rank.folder)}
            told.append(asdict(rank) | words | files | {"environment": self._environment | rank.environment})
        start = json.dumps({"script": str(REPOSITORY / script), "ranks": told})
        self._process.stdin.write(start.encode() + b"\n")
        started = Started(self, self._answer(60), told)
        try:
            yield started
        finally:
            for process in self.alive():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            started.wait(60)

    def alive(self) -> list[psutil.Process]:
        """Who lives of all that was started, orphans too."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _answer(self, timeout: float) -> Any:
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("warm_starter.py", timeout)
        return json.loads(self._process.stdout.readline())


class Started:
    """Ranks that run."""

    def __init__(self, starter: WarmStarter, pids: list[int], told: list[dict]) -> None:
        self.pids = pids
        self._starter, self._told = starter, told
        self._ends: list[Ended] | None = None

    def wait(self, timeout: float) -> list[Ended]:
        """How each of them ended, once all have."""
        if self._ends is None:
            ends = self._starter._answer(timeout)
            outputs = [[Path(rank[name]).read_text() for name in ("out", "err")] for rank in self._told]
            self._ends = [Ended(code, *texts, seconds) for (code, seconds), texts in zip(ends, outputs, strict=True)]
        return self._ends
