"""Checks of the nodes themselves: software, clocks, GPUs, network. Each: a ``Scene`` → a ``Row``, equal on all ranks.

Enters: measurements of cluster/hardware*.py. Leaves: what they are worth, and which node is the odd one. Functions
named ``judge_…`` are pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from phi3v_dist.cluster import hardware, hardware_bandwidth, hardware_gpu
from phi3v_dist.cluster.hardware_gpu import GpuState
from phi3v_dist.cluster.process_group import from_all_ranks
from phi3v_dist.errors import HardwareError, UserError
from phi3v_dist.training.backend import choose_backend
from phi3v_dist.training.preflight_scene import Scene
from phi3v_dist.training.preflight_verdict import Fault, Row, differences, faults_of, values_of

_MOST_CLOCK_SKEW_SECONDS = 2.0
_NETWORK_PATIENCE = 3.0
_COMPILING_PATIENCE = 5.0  # on a CPU the first rank of a machine may have to compile, while the others wait


def devices(scene: Scene) -> Row:
    """A device for each rank, with the kernels that the recipe asks for. Nothing else works without."""

    def choose() -> dict[str, str]:
        scene.backend = choose_backend(scene.config, scene.who)
        return {"device": scene.backend.device.type, "kernels": scene.backend.reason}

    answers = scene.panel.ask("devices", choose, _COMPILING_PATIENCE)
    faults = [*faults_of(answers), *differences(answers, "Start on nodes of one kind, or name device and kernels.")]
    told = values_of(answers)
    return Row("devices", told[0][1]["device"] if told else "none", "one for each rank", tuple(faults))


def same_versions(scene: Scene) -> Row:
    """The same software and the same options everywhere."""
    driver = {"driver": scene.gpu.driver} if isinstance(scene.gpu, GpuState) else {}
    software = scene.panel.ask("versions", lambda: hardware.versions() | driver)
    options = scene.panel.ask("configuration", lambda: _flat(scene.config.model_dump()))
    mend = "Install the same software on it, or leave it out (sbatch --exclude)."
    faults = [*faults_of(software), *differences(software, mend)]
    faults += differences(options, "Give all ranks the same recipe and the same overrides.", of_node=False)
    found = dict(values_of(software)[0][1])
    value = ", ".join(f"{name} {found[name]}" for name in ("torch", "deepspeed", "transformers") if name in found)
    return Row("versions", f"{value}; {len(found)} compared", "equal everywhere", tuple(faults))


def _flat(options: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Options by dotted key."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return found


def clocks(scene: Scene) -> Row:
    """Clocks that agree: log lines of several nodes are read side by side, and time limits are clock times."""
    scene.panel.deadline.at("clocks")
    told = from_all_ranks((scene.who.node_name, hardware.read_clocks()))
    return judge_clocks([node for node, _ in told], *hardware.clock_offsets([read for _, read in told]))


def judge_clocks(nodes: Sequence[str], offsets: Sequence[float], resolution: float) -> Row:
    """``nodes``, ``offsets``: of each rank. A node is blamed where more than half of the ranks agree."""
    faults: dict[str, Fault] = {}
    agree = 2 * sum(abs(offset) <= _MOST_CLOCK_SKEW_SECONDS for offset in offsets) > len(offsets)
    for node, offset in zip(nodes, offsets, strict=True):
        if abs(offset) > _MOST_CLOCK_SKEW_SECONDS + resolution:
            what = f"its clock is {offset:+.3f} s beside the others' (± {resolution:.3f} s)"
            error = HardwareError(what, where=f"node {node}", mend="Start its time service (chrony, ntpd).")
            faults.setdefault(node, Fault(error, node if agree else ""))
    worst = max(offsets, key=abs)
    value = f"{worst:+.3f} s on {nodes[list(offsets).index(worst)]} (± {resolution:.3f} s)"
    return Row("clocks", value, f"within {_MOST_CLOCK_SKEW_SECONDS:.0f} s", tuple(faults.values()))


def gpu_health(scene: Scene) -> Row:
    """GPUs without memory errors, at full clocks, and nobody else's."""
    if scene.backend.device.type != "cuda":
        return Row("GPU health", "", skipped="runs on the CPU")

    def judge() -> str:
        if isinstance(scene.gpu, UserError):
            raise scene.gpu
        assert scene.gpu is not None, "it is read wherever the run takes GPUs"
        if found := hardware_gpu.gpu_faults(scene.gpu):
            where, mend = f"GPU {scene.who.rank_of_node}", "Leave the node out (sbatch --exclude) and tell its keepers."
            raise HardwareError("; ".join(found), where=where, mend=mend)
        return scene.gpu.name

    answers = scene.panel.ask("GPU health", judge)
    names = sorted({name for _, name in values_of(answers)})
    return Row("GPU health", ", ".join(names), "no errors, full clocks, unused", faults_of(answers))


def bandwidth_in_nodes(scene: Scene) -> Row:
    """All-reduce among the ranks of each node."""
    if scene.who.ranks_per_node == 1:
        return Row("all-reduce in a node", "", skipped="one rank per node")
    scene.panel.deadline.at("all-reduce in a node")
    speed = hardware_bandwidth.bandwidth_in_node(scene.who, scene.backend.device)
    told = {node: speed for node, speed in from_all_ranks((scene.who.node_name, speed)) if speed is not None}
    faults = [
        Fault(_too_slow(f"node {node}", speed, scene.floors.node), node)
        for node, speed in told.items()
        if speed < scene.floors.node
    ]
    worst = min(told, key=told.__getitem__)
    return Row("all-reduce in a node", f"{told[worst]:.2f} GB/s on {worst}", _floor(scene.floors.node), tuple(faults))


def bandwidth_between_nodes(scene: Scene) -> Row:
    """All-reduce of each two neighbours in a ring of nodes."""
    if scene.who.num_nodes == 1:
        return Row("all-reduce between nodes", "", skipped="one node")
    scene.panel.deadline.at("all-reduce between nodes", _NETWORK_PATIENCE)
    own = hardware_bandwidth.bandwidth_between_nodes(scene.who, scene.backend.device)
    told = from_all_ranks((scene.who.node, scene.who.node_name, own))
    names = {number: name for number, name, _ in told}
    pairs = {pair: speed for _, _, measured in told for pair, speed in measured.items()}
    return judge_pairs(pairs, names, scene.floors.network)


def judge_pairs(pairs: dict[tuple[int, int], float], names: dict[int, str], floor: float) -> Row:
    """``pairs``: GB/s by two node numbers; ``names`` of nodes by number."""
    nodes, rest = hardware_bandwidth.slow_nodes(pairs, floor)
    faults = []
    for node in nodes:
        speed = max(speed for pair, speed in pairs.items() if node in pair)
        faults.append(Fault(_too_slow(f"node {names[node]}, to both neighbours", speed, floor), names[node]))
    for one, other in rest:
        where = f"between nodes {names[one]} and {names[other]}"
        faults.append(Fault(_too_slow(where, pairs[one, other], floor)))
    worst = min(pairs, key=pairs.__getitem__)
    value = f"{pairs[worst]:.2f} GB/s, {names[worst[0]]} with {names[worst[1]]}"
    return Row("all-reduce between nodes", value, _floor(floor), tuple(faults))


def _too_slow(where: str, speed: float, floor: float) -> HardwareError:
    mend = "Look at its links (nvidia-smi nvlink -s, ibstat) and at NCCL_SOCKET_IFNAME, or lower the floor."
    return HardwareError(f"all-reduce runs at {speed:.2f} GB/s, the floor is {floor:g}", where=where, mend=mend)


def _floor(floor: float) -> str:
    return f"{floor:g} GB/s" if floor else "no floor given"
