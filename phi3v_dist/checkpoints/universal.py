"""A checkpoint → a copy in DeepSpeed's universal format, which any number of ranks loads.

Enters: a checkpoint of another number of ranks. Leaves: a folder beside it for as long as it is loaded: per parameter
one file with its fp32 weights and one for each moment, instead of one file per rank. The work is DeepSpeed's own
converter's, called piece by piece on the ranks of the first node: all of one node, since others may not see at once
what it writes, and in rounds of one piece each, so that no rank waits for long. A copy that was cut off is made anew.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from phi3v_dist.checkpoints.choose import ENGINE, Checkpoint
from phi3v_dist.checkpoints.space import conversion_bytes, need_space
from phi3v_dist.cluster.process_group import together
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.errors import CheckpointError

_STATES = ("fp32", "exp_avg", "exp_avg_sq")


@contextmanager
def universal_copy(checkpoint: Checkpoint, who: ClusterInfo) -> Iterator[Path]:
    """Yield the folder on every rank, with the tag ``ENGINE`` in it; afterwards it is removed.

    Raises ``CheckpointError``, alike on every rank, for a disk that is too full or fails.
    """
    copy = checkpoint.folder.with_name(f".{checkpoint.folder.name}.universal")
    source, target = checkpoint.folder / ENGINE, copy / ENGINE
    shapes = _shapes(source)
    need_bytes = conversion_bytes(checkpoint, sum(map(len, shapes)))
    together(lambda: _make_place(copy, need_bytes) if who.is_rank_0 else None)
    extract = [partial(_extract, source, target, shapes, rank) for rank in range(checkpoint.num_ranks)]
    merge = [partial(_merge, target, name, checkpoint.num_ranks) for group in shapes for name in group]
    for pieces in (extract, merge, [partial(_rest, source, target)]):
        _share(pieces, who, copy)
    yield copy
    dist.barrier()
    if who.is_rank_0:
        shutil.rmtree(copy, ignore_errors=True)


def _make_place(copy: Path, need_bytes: int) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    need_space(copy.parent, need_bytes, "loading a checkpoint of another number of ranks")
    try:
        (copy / ENGINE).mkdir(parents=True)
    except OSError as error:
        raise _failed(copy, error) from None


def _share(pieces: Sequence[Callable[[], None]], who: ClusterInfo, copy: Path) -> None:
    """Do the pieces, one on each rank of the first node at a time."""
    for start in range(0, len(pieces), who.ranks_per_node):
        mine = pieces[start + who.rank : start + who.rank + 1] if who.node == 0 else []
        together(partial(_do, mine, copy))


def _do(pieces: Sequence[Callable[[], None]], copy: Path) -> None:
    try:
        for piece in pieces:
            piece()
    except (OSError, RuntimeError) as error:  # PyTorch makes a RuntimeError of a full disk
        raise _failed(copy, error) from None


def _failed(copy: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"a checkpoint can't be converted for another number of ranks: {error}",
        where=str(copy),
        mend="Mend the disk or its permissions, or start with as many ranks as wrote the checkpoint.",
    )


def _shapes(source: Path) -> list[dict[str, torch.Size]]:
    """Names and shapes of all trained parameters, in the order in which each rank's file holds its parts."""
    from deepspeed.checkpoint.constants import PARAM_SHAPES

    return _load(next(source.glob("zero_pp_rank_0_*_model_states.pt")))[PARAM_SHAPES]


def _extract(source: Path, target: Path, shapes: list[dict[str, torch.Size]], rank: int) -> None:
    """Cut one rank's file into a file per parameter and state."""
    from deepspeed.checkpoint.ds_to_universal import extract_zero_shards_stage3

    file = next(source.glob(f"*zero_pp_rank_{rank}_*_optim_states.pt"))
    num_ranks = len(list(source.glob("*_optim_states.pt")))
    extract_zero_shards_stage3({0: {rank: str(file)}}, [shapes], num_ranks, str(target / "tmp"), (0, rank))


def _merge(target: Path, name: str, num_ranks: int) -> None:
    """Put the ranks' parts of one parameter together."""
    from deepspeed.checkpoint.ds_to_universal import merge_zero3_slices

    parts = target / "tmp" / name
    for state in _STATES:
        found = len(list(parts.glob(f"0/{state}.*")))
        assert found == num_ranks, f"{name}: {found} parts of {state}, {num_ranks} ranks wrote some"
    merge_zero3_slices(num_ranks, str(target / "zero"), str(target / "tmp"), name)
    shutil.rmtree(parts)


def _rest(source: Path, target: Path) -> None:
    """What is not per parameter: without rank 0's tensors, which DeepSpeed's converter would have every rank read."""
    from deepspeed.checkpoint.constants import OPTIMIZER_STATE_DICT

    state = _load(next(source.glob("*zero_pp_rank_0_*_optim_states.pt")))[OPTIMIZER_STATE_DICT]
    del state["fp32_flat_groups"]
    optimizer = state[OPTIMIZER_STATE_DICT]
    optimizer["state"] = {0: {"step": optimizer["state"][0]["step"].clone()}}
    torch.save(state, target / "zero" / "optimizer_state.pt")
    for file in source.glob("zero_pp_rank_0_*_model_states.pt"):
        shutil.copy2(file, target)


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False, mmap=True)
