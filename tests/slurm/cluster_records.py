"""Records of virtual clusters, by which every process and namespace of one can be found and taken down.

Enters: pids with the time of their start, names of namespaces, the folder. Leaves: nothing of them. What a killed test
run left behind is found here at the next start.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

RECORDS = Path("/run/phi3v-virtual-clusters")


class ClusterFault(AssertionError):
    """The virtual cluster itself doesn't do what it should."""


def run(*words: object, timeout: float = 60, check: bool = True, **options: Any) -> subprocess.CompletedProcess:
    """Run a command of the machine and return it with its output."""
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)
    if check and done.returncode != 0:
        raise ClusterFault(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def clean_up_leftovers() -> None:
    """Take down clusters whose test run is gone."""
    for record in RECORDS.glob("*.json"):
        told = json.loads(record.read_text())
        if start_of(told["owner"]) != told["owner_started"]:
            take_down(told)


def free_number() -> int:
    """Reserve a number by making its record: of two test runs one gets it."""
    RECORDS.mkdir(exist_ok=True)
    for number in range(1, 250):
        with contextlib.suppress(FileExistsError):
            with open(RECORDS / f"{number}.json", "x") as handle:
                told = {"owner": os.getpid(), "owner_started": start_of(os.getpid()), "processes": {}}
                handle.write(json.dumps(told | {"places": [], "folder": "", "number": number}))
            return number
    raise ClusterFault(f"all numbers are taken, see {RECORDS}")


def take_down(told: dict) -> None:
    """End the recorded processes, and whatever lives in the recorded namespaces."""
    for pid, started in told["processes"].items():
        if start_of(int(pid)) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    for place in told["places"]:
        for pid in run("ip", "netns", "pids", place, check=False).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    for place in told["places"]:
        run("ip", "netns", "del", place, check=False)
    for pid in map(int, told["processes"]):
        with contextlib.suppress(ChildProcessError):  # ours: no zombie stays; a former run's have another parent
            os.waitpid(pid, 0)
    if told["folder"]:
        run("umount", f"{told['folder']}/small-disk", check=False)
    if told["folder"] and not os.environ.get("PHI3V_KEEP_CLUSTER"):
        shutil.rmtree(told["folder"], ignore_errors=True)
    (RECORDS / f"{told['number']}.json").unlink(missing_ok=True)


def stat_of(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def start_of(pid: int) -> str:
    """When a process was started, in the kernel's ticks: tells it from a later one with the same number."""
    fields = stat_of(pid)
    return fields[19] if fields and fields[0] != "Z" else ""


def lives(pid: int) -> bool:
    fields = stat_of(pid)
    return bool(fields) and fields[0] != "Z"


def command_of(pid: int) -> list[str]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [Path(words[0]).name, *words[1:]]
