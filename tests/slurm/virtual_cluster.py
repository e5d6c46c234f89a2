"""A real Slurm of nine nodes on this machine, for tests; root on Linux, Debian's Slurm packages.

Each node is a set of namespaces (network, host name, mounts, process ids) with its own slurmd, host name and address on
a bridge; the controller and every command run in a hub namespace. So the same job scripts run as on a cluster, a node
can be powered off (all its processes die) or cut off (they live on), and the nodes see one shared file system: this
machine's. What was measured about it: ``shared/facts/slurm.md``.

All state lies in one temporary folder. The names of namespaces carry a number of their own, so that two clusters
don't meet; what a killed test run left behind is found by the records in ``/run/phi3v-virtual-clusters`` and taken down
at the next start.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster_records import (
    RECORDS,
    ClusterFault,
    clean_up_leftovers,
    command_of,
    free_number,
    lives,
    run,
    start_of,
    take_down,
)

Found = TypeVar("Found")

NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare")
SMALL_DISK_BYTES = 48_000_000
CPUS_OF_NODE = 4
GPUS_OF_NODE = 4  # character devices that Slurm counts and hands out; nothing can compute on them
_CONFIGURATION = """\
ClusterName=virtual
SlurmctldHost=ctl({network}.100)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# The credential's life is also the delay of a requeue (plus one second); five is the least legal value.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/finished-jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
# A dead node is noticed after about 25 s. With 3 s for an answer (then 12 s) a busy machine repeats the end of a job's
# last run a minute later, and kills the new run with it (seen with ten processes per CPU).
SlurmdTimeout=10
MessageTimeout=10
TCPTimeout=2
KillWait={kill_wait_seconds}
ReturnToService=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
MinJobAge=300
GresTypes=gpu
NodeName=n[1-{nodes}] CPUs={cpus} RealMemory=2500 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=nograce Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def what_is_missing() -> str:
    """Why no virtual cluster can run here; empty when one can."""
    if os.geteuid() != 0:
        return "a virtual cluster needs root"
    missing = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return f"{', '.join(missing)} missing: make slurm-install" if missing else ""


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job. ``state``: one word such as RUNNING; ``restarts``: how often it was requeued."""

    state: str
    reason: str
    restarts: int
    nodes: list[str]
    exit_code: int
    fields: Mapping[str, str]


class VirtualCluster:
    """Nodes ``n1`` … ``n9``, and ``small_disk``, a file system that is soon full. Use as a context manager."""

    def __init__(self, *, num_nodes: int = 9, kill_wait_seconds: int = 5, grace_seconds: int = 20) -> None:
        self.nodes = [f"n{number}" for number in range(1, num_nodes + 1)]
        self._settings = {"kill_wait_seconds": kill_wait_seconds, "grace": grace_seconds}
        self._processes: dict[str, int] = {}
        self._powered_on: dict[str, int] = {}

    def __enter__(self) -> "VirtualCluster":
        clean_up_leftovers()
        self.number = free_number()
        self.network = f"10.77.{self.number}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"virtual-cluster-{self.number}-"))
        self.folder.chmod(0o755)  # munge refuses a folder that others can't enter
        self.small_disk = self.folder / "small-disk"
        self._record()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take everything down: nodes, daemons, namespaces, records, the folder."""
        take_down(self._read_record())

    # -- jobs

    @property
    def environment(self) -> dict[str, str]:
        """What the commands of Slurm need to find this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: object, check: bool = True, timeout: float = 60, **options: Any) -> str:
        """Run a command such as squeue on the hub; its standard output."""
        environment = dict(os.environ) | self.environment | dict(options.pop("env", {}))
        return run(*self._inside("hub"), *words, check=check, timeout=timeout, env=environment, **options).stdout

    def sbatch(self, *words: object, env: Mapping[str, str] | None = None, cwd: str | Path | None = None) -> int:
        """Submit a job; its number."""
        told = self.command("sbatch", "--parsable", *words, env=env or {}, cwd=cwd)
        return int(told.strip().split(";")[0])

    def job(self, job: int) -> JobState:
        """What Slurm says of a job now."""
        text = self.command("scontrol", "show", "job", job, "--oneliner")
        fields = dict(re.findall(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", text.splitlines()[0]))
        nodes = fields.get("NodeList", "(null)")
        return JobState(
            state=fields["JobState"],
            reason=fields["Reason"],
            restarts=int(fields["Restarts"]),
            nodes=[] if nodes in ("(null)", "") else self.command("scontrol", "show", "hostnames", nodes).split(),
            exit_code=int(fields["ExitCode"].split(":")[0]),
            fields=fields,
        )

    def wait_for(self, job: int, *states: str, restarts: int = 0, timeout: float = 180) -> JobState:
        """Wait until the job is in one of these states, having been requeued at least ``restarts`` times."""

        def arrived() -> JobState | None:
            now = self.job(job)
            return now if now.state in states and now.restarts >= restarts else None

        return wait_until(arrived, timeout, lambda: f"job {job} is {self.job(job)}, not {states} (restarts {restarts})")

    # -- nodes

    def node_state(self, node: str) -> str:
        """Such as ``idle``, ``alloc`` or ``down*`` (``*``: doesn't answer)."""
        return self.command("sinfo", "--noheader", "--nodes", node, "--partition", "main", "--format", "%t").strip()

    def pids(self, node: str) -> list[int]:
        """Every process of a node that lives, slurmd's own left out."""
        own = self._powered_on.get(node)
        found = run("ip", "netns", "pids", self._name(node), check=False).stdout.split()
        return [pid for pid in map(int, found) if pid != own and lives(pid) and command_of(pid)[:1] != ["slurmd"]]

    def tasks(self, node: str, *words: str) -> list[int]:
        """Processes of a node whose command line has all these words in it."""
        return [pid for pid in self.pids(node) if all(word in " ".join(command_of(pid)) for word in words)]

    def power_off(self, node: str) -> None:
        """Every process of the node dies."""
        os.kill(self._powered_on.pop(node), signal.SIGKILL)

    def power_on(self, node: str) -> None:
        """Start a node."""
        spaces = ["-p", "-f", "--kill-child", "--mount-proc"]
        self._powered_on[node] = self._spawn(node, node, *self._with_host_name(node, spaces, "slurmd -D"))

    def cut(self, node: str) -> None:
        """Pull the network cable; the node's processes live on."""
        run("ip", "-n", self._name("hub"), "link", "set", f"v{self.number}{node}", "down")

    def reconnect(self, node: str) -> None:
        """Plug the cable in again."""
        run("ip", "-n", self._name("hub"), "link", "set", f"v{self.number}{node}", "up")

    def drain(self, node: str) -> None:
        """Give the node no more jobs."""
        self.command("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")

    def resume(self, node: str) -> None:
        """Give the node jobs again."""
        self.command("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)

    def bring_all_back(self, timeout: float = 60) -> None:
        """All jobs cancelled, every node on, connected and idle."""
        self.command("scancel", "--user", "root")
        for node in self.nodes:
            self.reconnect(node)
            if node not in self._powered_on:
                self.power_on(node)
        ended = time.monotonic() + timeout
        while not all(self.node_state(node) == "idle" for node in self.nodes):
            for node in self.nodes:
                if self.node_state(node).startswith(("down", "drain")):
                    self.resume(node)
            if time.monotonic() > ended:
                raise ClusterFault(self.command("sinfo", "-N", "-l") + self.command("squeue"))
            time.sleep(0.5)

    def empty_small_disk(self) -> None:
        """Delete everything on the small disk."""
        for path in self.small_disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    # -- start

    def _name(self, place: str) -> str:
        return f"phi3v{self.number}-{place}"

    def _inside(self, place: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._name(place)}"]

    def _with_host_name(self, name: str, spaces: list[str], daemon: str) -> list[str]:
        """Words that start a daemon on a host of this name, which knows the others' names."""
        shell = f"hostname {name}; mount --bind {self.folder}/hosts /etc/hosts; exec {daemon}"
        return ["unshare", "-u", "-m", *spaces, "sh", "-c", shell]

    def _spawn(self, name: str, place: str, *words: str) -> int:
        """Start a daemon that outlives a Ctrl-C at the terminal; its pid is recorded."""
        environment = dict(os.environ) | self.environment | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        with open(self.folder / f"{name}.out", "ab") as output:
            process = subprocess.Popen(
                [*self._inside(place), *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self._processes[f"{name}-{process.pid}"] = process.pid
        self._record()
        return process.pid

    def _start(self) -> None:
        self._make_network()
        self._write_files()
        # before the nodes, which take the mounts of their start along
        self.small_disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "small-disk", self.small_disk)
        munge = self.folder / "munge"
        files = [f"--{kind}-file={munge}/{kind}" for kind in ("key", "pid", "log", "seed")]
        self._spawn("munged", "hub", "munged", "-F", "-f", f"--socket={munge}/socket", *files)
        wait_until((munge / "socket").exists, 20, lambda: "munged doesn't start")
        self._spawn("slurmctld", "hub", *self._with_host_name("ctl", [], "slurmctld -D -c"))
        for node in self.nodes:
            self.power_on(node)
        wait_until(
            lambda: (
                self.command("sinfo", "--noheader", "-N", "-p", "main", "-o", "%t", check=False).split()
                == ["idle"] * len(self.nodes)
            ),
            60,
            lambda: f"nodes don't become idle, see {self.folder}\n{self.command('sinfo', '-N', '-l', check=False)}",
        )

    def _make_network(self) -> None:
        """A bridge in the hub's network, and a cable from it to each node's."""
        hub = self._name("hub")
        run("ip", "netns", "add", hub)
        run("ip", "-n", hub, "link", "set", "lo", "up")
        run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", hub, "addr", "add", f"{self.network}.100/24", "dev", "bridge")
        run("ip", "-n", hub, "link", "set", "bridge", "up")
        for number, node in enumerate(self.nodes, start=1):
            inside, cable = self._name(node), f"v{self.number}{node}"
            run("ip", "netns", "add", inside)
            run("ip", "-n", hub, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", inside)
            run("ip", "-n", hub, "link", "set", cable, "master", "bridge", "up")
            run("ip", "-n", inside, "link", "set", "lo", "up")
            run("ip", "-n", inside, "addr", "add", f"{self.network}.{number}/24", "dev", "eth0")
            run("ip", "-n", inside, "link", "set", "eth0", "up")

    def _write_files(self) -> None:
        addresses = [f"{self.network}.{number} {node}" for number, node in enumerate(self.nodes, start=1)]
        hosts = ["127.0.0.1 localhost", f"{self.network}.100 ctl", *addresses]
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        (self.folder / "munge").mkdir(mode=0o755)
        (self.folder / "munge/key").write_bytes(os.urandom(1024))
        (self.folder / "munge/key").chmod(0o400)
        (self.folder / "state").mkdir()
        numbers = {"network": self.network, "nodes": len(self.nodes), "cpus": CPUS_OF_NODE, "gpus": GPUS_OF_NODE}
        nodes = "".join(
            f"NodeName={node} NodeAddr={address.split()[0]}\n"
            for node, address in zip(self.nodes, addresses, strict=True)
        )
        text = _CONFIGURATION.format(folder=self.folder, **numbers, **self._settings)
        common = re.search(r"^NodeName=\S+ (.*)\n", text, re.MULTILINE)
        assert common is not None
        text = text.replace(common[0], nodes.replace("\n", f" {common[1]}\n"))
        (self.folder / "slurm.conf").write_text(text)
        for number in range(GPUS_OF_NODE):
            os.mknod(self.folder / f"nvidia{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/nvidia[0-{GPUS_OF_NODE - 1}]\n")
        # Found by itself, it would want a mounted cgroup tree.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    # -- records

    def _record(self) -> None:
        RECORDS.mkdir(exist_ok=True)
        places = [self._name(place) for place in ("hub", *self.nodes)]
        starts = {str(pid): start_of(pid) for pid in self._processes.values()}
        told = {"owner": os.getpid(), "owner_started": start_of(os.getpid()), "processes": starts}
        told |= {"places": places, "folder": str(self.folder), "number": self.number}
        temporary = RECORDS / f".{self.number}"
        temporary.write_text(json.dumps(told))
        temporary.rename(RECORDS / f"{self.number}.json")

    def _read_record(self) -> dict:
        return json.loads((RECORDS / f"{self.number}.json").read_text())


@contextlib.contextmanager
def virtual_cluster(**settings: int) -> Iterator[VirtualCluster]:
    """A cluster for the time of the context; also taken down when the test run is told to end."""
    before = signal.signal(signal.SIGTERM, _as_keyboard_interrupt)
    try:
        with VirtualCluster(**settings) as cluster:
            yield cluster
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_keyboard_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def wait_until(what: Callable[[], Found], timeout: float, fault: Callable[[], str], every: float = 0.2) -> Found:
    """Call ``what`` until it returns something true; that."""
    ended = time.monotonic() + timeout
    while not (found := what()):
        if time.monotonic() > ended:
            raise ClusterFault(f"after {timeout:.0f} s: {fault()}")
        time.sleep(every)
    return found
