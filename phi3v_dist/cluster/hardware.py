"""What a node is like, measured: software, clock, disk, a folder it shares with the others. Knows nothing of training.

Enters: who this rank is, folders. Leaves: plain values of this rank, to be compared and judged by others
(training/preflight_nodes.py, preflight_files.py). GPUs are in hardware_gpu.py, the network in hardware_bandwidth.py.
"""

import hashlib
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.distributed as dist

import phi3v_dist
from phi3v_dist.errors import RunError
from phi3v_dist.files import write_text

_PACKAGE = Path(phi3v_dist.__file__).parent
_CLOCK_ROUNDS = 5
_LOOK_EVERY_SECONDS = 0.1


def versions() -> dict[str, str]:
    """Name → version of everything that must not differ between nodes; what a node lacks is left out."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("deepspeed", "transformers", "phi3v-dist"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # phi3v-dist itself may be run from its checkout
    found["source"] = source_hash(_PACKAGE)
    if commit := git_commit(_PACKAGE.parent):
        found["commit"] = commit
    if torch.cuda.is_available():
        found["CUDA"] = str(torch.version.cuda)
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def source_hash(folder: Path) -> str:
    """First 12 digits of the SHA-256 of a folder's Python files: tells an edit that no commit tells."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        whole.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:12]


def git_commit(folder: Path) -> str:
    """First 12 digits of the commit that a checkout stands at; empty where there is no checkout, or no git."""
    try:
        command = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


@dataclass(frozen=True)
class Clock:
    """``seconds``: this rank's clock when all had met; ``resolution_seconds``: how long they took to meet."""

    seconds: float
    resolution_seconds: float


def read_clocks(now: Callable[[], float] = time.time) -> list[Clock]:
    """Meet the other ranks a few times and read the clock each time, a ``Clock`` per time.

    Ranks leave a barrier after the last one came, none later than the slowest took to meet: two clocks that were read
    then differ by no more than that, and by what they differ.
    """
    read = []
    for _ in range(_CLOCK_ROUNDS):
        dist.barrier()
        started = time.monotonic()
        dist.barrier()
        read.append(Clock(now(), time.monotonic() - started))
    return read


def clock_offsets(read: list[list[Clock]]) -> tuple[list[float], float]:
    """Seconds by which each rank's clock is ahead of the middle one, and the resolution of that.

    ``read``: per rank what ``read_clocks`` gave it. The time in which all met fastest counts.
    """
    spreads = [max(clock.resolution_seconds for clock in together) for together in zip(*read, strict=True)]
    best = min(range(len(spreads)), key=spreads.__getitem__)
    seconds = [clocks[best].seconds for clocks in read]
    middle = sorted(seconds)[(len(seconds) - 1) // 2]
    return [own - middle for own in seconds], spreads[best]


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the file system that ``folder`` lies on, or will lie on."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def bytes_in(folder: Path) -> int:
    """Bytes of all files below ``folder``; 0 where it isn't there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def leave_token(folder: Path, name: str, token: str) -> None:
    """Write a file into ``folder``, which is made. Raises ``RunError`` where that can't be done."""
    try:
        write_text(folder / name, token)
    except OSError as error:
        raise RunError(
            f"nothing can be written here: {error.strerror}",
            where=str(folder),
            mend="Mount it on this node, make it writable, or set run_folder to another place.",
        ) from None


def find_token(folder: Path, name: str, token: str, *, patience_seconds: float = 3.0) -> float:
    """Wait for a file of another node; return the seconds until it was seen (a network file system may be late).

    Raises ``RunError`` when it doesn't come, or holds something else.
    """
    started, found = time.monotonic(), None
    while time.monotonic() - started < patience_seconds:
        try:
            found = (folder / name).read_text(encoding="utf-8")
            if found == token:
                return time.monotonic() - started
            folder.stat()
        except OSError:
            found = None
        time.sleep(_LOOK_EVERY_SECONDS)
    what = "a file that rank 0 has written here" + (" isn't there" if found is None else " has another content")
    raise RunError(
        f"{what}: this is another folder than on rank 0's node",
        where=str(folder),
        mend="Set run_folder to a file system that all nodes share, and mount it on this node.",
    )
