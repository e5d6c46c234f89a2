"""How many bytes a checkpoint will take, and whether the disk has them.

Enters: an engine, or a checkpoint to convert. Leaves: bytes by formula from the sizes of the engine's own partitions;
an error where they don't fit, before a byte is written.
"""

import shutil
from pathlib import Path
from typing import Any

from phi3v_dist.checkpoints.choose import Checkpoint
from phi3v_dist.errors import CheckpointError

_OPTIMIZER_BYTES = 12  # per trained parameter: fp32 master copy and AdamW's two moments
# Measured: what pickles and archives add, per rank and per parameter's name and shape, and per rank (with the scripts).
_BYTES_PER_NAME = 400
_BYTES_PER_RANK = 60_000
_BYTES_PER_PIECE = 8192  # of a converted checkpoint: an archive with one tensor, in whole blocks


def state_bytes(trained_parameters: int, frozen_bytes: int) -> int:
    """What a checkpoint holds: optimizer states of what is trained, and the weights themselves of what is not."""
    return trained_parameters * _OPTIMIZER_BYTES + frozen_bytes


def predicted_bytes(engine: Any) -> int:
    """What this rank will write in ``engine.save_checkpoint``."""
    trained = sum(group.numel() for group in engine.optimizer.fp32_partitioned_groups_flat)
    parameters = list(engine.module.parameters())
    frozen = sum(_partition_bytes(parameter) for parameter in parameters if not parameter.requires_grad)
    buffers = sum(buffer.nbytes for buffer in engine.module.buffers())
    return state_bytes(trained, frozen) + buffers + len(parameters) * _BYTES_PER_NAME + _BYTES_PER_RANK


def _partition_bytes(parameter: Any) -> int:
    return parameter.ds_tensor.numel() * parameter.ds_tensor.element_size()


def conversion_bytes(checkpoint: Checkpoint, num_parameters: int) -> int:
    """What a copy of ``checkpoint`` in the universal format takes at most, its pieces included."""
    pieces = 3 * num_parameters * (checkpoint.num_ranks + 1)
    return checkpoint.written_bytes + pieces * _BYTES_PER_PIECE


def need_space(folder: Path, need_bytes: int, what: str) -> None:
    """Raise ``CheckpointError`` where ``folder``'s disk has less free than ``need_bytes``."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < need_bytes:
        raise CheckpointError(
            f"{what} needs {need_bytes / 1e9:.3f} GB and this disk has {free_bytes / 1e9:.3f} GB free",
            where=str(folder),
            mend="Free space or lower checkpoints.keep_last, and start again: the checkpoints there are untouched.",
        )
