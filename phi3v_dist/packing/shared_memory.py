"""How many packs loader processes may prepare ahead, so that finished batches never fill a node's shared memory.

Enters: ``PackingOptions``, the ranks of the node. Leaves: packs per loader process. The largest batch follows from
``pack_tokens`` alone, whatever the documents; a full /dev/shm would be a SIGBUS in a loader process without a word.
"""

import shutil

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.console import log
from phi3v_dist.documents.crops import TOKEN_SIDE
from phi3v_dist.errors import ConfigError, RunError

SHARED_MEMORY = "/dev/shm"
_HANDED_OUT = 2  # the batch in use, and the next one, taken before it is let go
_TOKEN_BYTES = 3 * TOKEN_SIDE**2 + 5 * 8 + 4  # a token's part of the uint8 crops, and collate.Batch's integers
_BATCH_BYTES = 2**16  # whole pages for each tensor of a batch, however small
_GB = 1e9


def largest_batch_bytes(pack_tokens: int) -> int:
    """Return the most that a batch of so many tokens takes: all of them picture tokens, separators not counted."""
    return pack_tokens * _TOKEN_BYTES + _BATCH_BYTES


def prefetch_depth(options: PackingOptions, ranks_on_node: int) -> int:
    """Return how many packs each loader process may prepare ahead, at most ``options.prefetch_packs``.

    Raises ConfigError where ``shared_memory_gb`` can't hold one pack per process, RunError where this node's shared
    memory can't, shared by all its ranks.
    """
    batch = largest_batch_bytes(options.pack_tokens)
    needed = _bytes_for(1, options.workers, batch)
    limit = options.shared_memory_gb * _GB
    if needed > limit:
        raise ConfigError(
            f"{options.workers} loader processes with packs of {options.pack_tokens} tokens need {_gb(needed)} GB",
            where="packing.shared_memory_gb",
            value=options.shared_memory_gb,
            mend=f"Set packing.shared_memory_gb={_gb(needed)} or more, fewer packing.workers, or packing.workers=0",
        )
    free = _free_bytes()
    if free is not None and needed > free / ranks_on_node:
        small = RunError(
            f"loader processes of {ranks_on_node} ranks need {_gb(needed * ranks_on_node)} GB of shared memory",
            where=SHARED_MEMORY,
            value=f"{_gb_below(free)} GB free",
            mend="Make it larger (docker run --shm-size=…, or mount -o remount,size=… /dev/shm), or set "
            "packing.workers=0",
        )
        small.on_every_rank = False  # another node's may be large enough
        raise small
    depth = _depth(limit, options, batch)
    if free is not None and (fitting := _depth(free / ranks_on_node, options, batch)) < depth:
        log.warning(
            "%s has %s GB free for %d ranks: each loader process prepares %d packs ahead, not %d. Make it larger "
            "where data_wait_share is high",
            SHARED_MEMORY, _gb_below(free), ranks_on_node, fitting, depth,
        )  # fmt: skip
        return fitting
    return depth


def _bytes_for(depth: int, workers: int, batch: int) -> int:
    return (depth * workers + _HANDED_OUT) * batch


def _depth(room: float, options: PackingOptions, batch: int) -> int:
    """The most packs per process that fit into ``room`` bytes."""
    return min(options.prefetch_packs, int(room // batch - _HANDED_OUT) // options.workers)


def _free_bytes() -> int | None:
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None  # no such folder: not Linux, or another way of sharing


def _gb(count: float) -> str:
    """GB, rounded up to a value that is enough."""
    return f"{(count + 0.005 * _GB) / _GB:.2f}"


def _gb_below(count: float) -> str:
    return f"{max(count - 0.005 * _GB, 0) / _GB:.2f}"
