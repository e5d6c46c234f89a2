"""The ranks' meeting point: set up before training, taken down after it.

Enters: a ``ClusterInfo`` and the name of a backend. Leaves: an initialised torch process group, and the few small
collectives on plain values that the rest of the system needs (agree, sum, gather). Without a barrier and a destroy at
the end some runs abort after they have finished (facts: deepspeed.md).
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.errors import UserError

Value = TypeVar("Value")


@contextmanager
def process_group(who: ClusterInfo, backend: str, timeout_minutes: float) -> Iterator[None]:
    """Initialise torch.distributed for this process, also for a run of one; leave in step with the other ranks.

    After an exception there is no barrier and no taking down: the others may never reach it, and the process ends.
    """
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(who.rank), str(who.num_ranks)
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = str(who.rank_of_node), str(who.ranks_per_node)
    # DeepSpeed's CPU communication takes all ranks for local ones without it, and shares memory with them.
    os.environ["LOCAL_SIZE"] = str(who.ranks_per_node)
    os.environ["MASTER_ADDR"] = who.master_addr
    os.environ["MASTER_PORT"] = str(who.master_port or free_port())
    dist.init_process_group(
        backend, rank=who.rank, world_size=who.num_ranks, timeout=timedelta(minutes=timeout_minutes)
    )
    yield
    dist.barrier()
    dist.destroy_process_group()


def free_port() -> int:
    """A port of this machine that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(action: Callable[[], Value]) -> Value:
    """Run ``action`` on every rank; a ``UserError`` on any of them is raised on all, so that nobody waits for it."""
    result, error = None, None
    try:
        result = action()
    except UserError as caught:
        error = caught
    for met in from_all_ranks(error):
        if met is not None:
            raise met
    return result  # type: ignore[return-value]


def from_all_ranks(value: Value) -> list[Value]:
    """Return every rank's picklable value, in their order, on every rank."""
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum a float64 tensor over all ranks, in place."""
    dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


def everyone(flag: bool, device: torch.device) -> bool:
    """Return whether ``flag`` is true on every rank."""
    agreed = torch.tensor(int(flag), device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed.item())


def from_rank_0(value: Value) -> Value:
    """Return rank 0's picklable value on every rank."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def gather_on_rank_0(value: Value, who: ClusterInfo) -> list[Value] | None:
    """Collect one picklable value of every rank on rank 0; None elsewhere."""
    parts: list[Value] | None = [value] * who.num_ranks if who.is_rank_0 else None
    dist.gather_object(value, parts)
    return parts
