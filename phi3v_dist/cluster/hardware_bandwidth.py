"""How fast ranks add up tensors together: inside each node, and between nodes.

Enters: who this rank is, its device. Leaves: bus bandwidth in GB/s (1e9 bytes), the figure that nccl-tests prints for
all_reduce: size ÷ seconds × 2(n − 1)/n, which doesn't depend on the number of ranks n and is held against the speed of
the slowest link (source: NVIDIA/nccl-tests, doc/PERFORMANCE.md, "Bus bandwidth").

Between nodes each pair of neighbours in a ring is measured on its own, by all ranks of both nodes: NCCL sends each
GPU's part through the network card next to it, so that one rank per node would show one card's speed instead of all.
Pairs that share no node are measured at the same time. Each node is in two pairs, so a slow one shows itself.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from phi3v_dist.cluster.who import ClusterInfo

Pair = tuple[int, int]

_BYTES = {"cuda": 1 << 28, "cpu": 1 << 22}
_ROUNDS = {"cuda": 10, "cpu": 3}
_WARM_UP_ROUNDS = 2
_TIMEOUT = timedelta(minutes=2)


def bandwidth_in_node(who: ClusterInfo, device: torch.device) -> float | None:
    """GB/s of this node's ranks; None where there is one rank alone. Called by every rank."""
    members = _ranks_of(who, who.node)
    return _measure(members, device) if len(members) > 1 else None


def bandwidth_between_nodes(who: ClusterInfo, device: torch.device) -> dict[Pair, float]:
    """GB/s of the pairs that this rank's node is in. Called by every rank."""
    found = {}
    for pairs in ring_of_pairs(who.num_nodes):
        for pair in pairs:
            if who.node in pair:
                found[pair] = _measure([rank for node in sorted(pair) for rank in _ranks_of(who, node)], device)
        dist.barrier()  # else a pair that is done would share the network of the next ones unevenly
    return found


def ring_of_pairs(num_nodes: int) -> list[list[Pair]]:
    """Return neighbours in a ring, in rounds of pairs that share no node: two rounds, three for an odd number."""
    if num_nodes < 2:
        return []
    pairs = [(node, (node + 1) % num_nodes) for node in range(num_nodes if num_nodes > 2 else 1)]
    last = [pairs.pop()] if num_nodes % 2 and num_nodes > 2 else []
    return [some for some in (pairs[0::2], pairs[1::2], last) if some]


def slow_nodes(pairs: dict[Pair, float], floor: float) -> tuple[list[int], list[Pair]]:
    """Nodes that are slow in both their pairs, and slow pairs that no such node explains.

    Where every pair is slow it is the network, and no node. ``floor`` in GB/s.
    """
    slow = [pair for pair, speed in pairs.items() if speed < floor]
    if len(slow) == len(pairs):
        return [], slow
    nodes = sorted({node for pair in pairs for node in pair})
    named = [node for node in nodes if all(pair in slow for pair in pairs if node in pair)]
    return named, [pair for pair in slow if not set(pair) & set(named)]


def bus_bandwidth(size_bytes: int, seconds: float, num_ranks: int) -> float:
    """GB/s of an all-reduce, see the module's text."""
    return size_bytes / seconds * 2 * (num_ranks - 1) / num_ranks / 1e9


def _ranks_of(who: ClusterInfo, node: int) -> list[int]:
    first = node * who.ranks_per_node
    return list(range(first, min(first + who.ranks_per_node, who.num_ranks)))


def _measure(members: Sequence[int], device: torch.device) -> float:
    """GB/s of an all-reduce among ``members``, who all call this; the slowest of them counts."""
    group = dist.new_group(
        list(members),
        backend="nccl" if device.type == "cuda" else "gloo",
        timeout=_TIMEOUT,
        use_local_synchronization=True,  # the other ranks are busy with pairs of their own
    )
    numbers = torch.ones(_BYTES[device.type] // 4, dtype=torch.float32, device=device)
    _seconds_of(numbers, group, _WARM_UP_ROUNDS)
    rounds = _ROUNDS[device.type]
    seconds = torch.tensor([_seconds_of(numbers.fill_(1.0), group, rounds)], dtype=torch.float64, device=device)
    dist.all_reduce(seconds, dist.ReduceOp.MAX, group=group)
    speed = bus_bandwidth(numbers.numel() * 4, seconds.item() / rounds, len(members))
    dist.destroy_process_group(group)
    return speed


def _seconds_of(numbers: torch.Tensor, group: Any, rounds: int) -> float:
    _wait(numbers)
    started = time.monotonic()
    for _ in range(rounds):
        dist.all_reduce(numbers, group=group)
    _wait(numbers)
    return time.monotonic() - started


def _wait(numbers: torch.Tensor) -> None:
    if numbers.device.type == "cuda":
        torch.cuda.synchronize(numbers.device)
