"""A step and the ranks that share it: arithmetic on pack numbers.

Enters: packs of a step, a number of ranks. Leaves: which rank takes which pack in which micro-step. A step is the same
packs in the same order on any number of ranks; only the rows in which they are taken differ, and where the last row has
gaps the rank runs a blank pack.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

_MOST_IDLE_SHARE = 0.03


@dataclass(frozen=True, eq=False)
class StepPlan:
    """One optimizer step. ``packs``: sample numbers of each pack; ``weight``: supervised tokens of all packs."""

    step: int
    epoch: int
    packs: list[Numbers]
    weight: int


def step_sizes(packs: int, packs_per_step: int) -> list[int]:
    """Packs of each step where so many are left in an epoch.

    Left-over packs are a step of their own from half a step on; fewer join the step before, so that no update is made
    of a handful of documents.
    """
    full, left_over = divmod(packs, packs_per_step)
    sizes = [packs_per_step] * full
    if left_over and (2 * left_over >= packs_per_step or not sizes):
        sizes.append(left_over)
    elif left_over:
        sizes[-1] += left_over
    return sizes


def micro_steps(packs_in_step: int, ranks: int) -> int:
    """Return how many packs one rank has to take in a step; the last may be a blank one."""
    return -(-packs_in_step // ranks)


def pack_of(step: StepPlan, micro_step: int, rank: int, ranks: int) -> Numbers | None:
    """Return the pack of a data rank in a micro-step, or None where the step has no pack left for it."""
    place = micro_step * ranks + rank
    return step.packs[place] if place < len(step.packs) else None


def idle_share(packs_in_step: int, ranks: int) -> float:
    """Return the part of all micro-steps × ranks of a step in which a rank runs a blank pack."""
    return 1 - packs_in_step / (micro_steps(packs_in_step, ranks) * ranks)


def idle_advice(packs_in_step: int, packs_per_step: int, ranks: int) -> str:
    """What leaves ranks idle in a step of so many packs, and what wouldn't; empty where it is little.

    A step has another number of packs than ``packs_per_step`` where it is a whole epoch: then fewer ranks are as quick.
    """
    idle = idle_share(packs_in_step, ranks)
    if idle <= _MOST_IDLE_SHARE:
        return ""
    if packs_in_step == packs_per_step:
        good = nearest_without_idle(packs_per_step, ranks)
        told = f"packing.packs_per_step={packs_per_step} leaves {ranks} ranks idle for {idle:.0%} of the time"
        return f"{told}; nearest without: packing.packs_per_step={good}"
    enough = -(-packs_in_step // micro_steps(packs_in_step, ranks))
    told = f"an epoch has {packs_in_step} packs and is one step (packing.packs_per_step={packs_per_step})"
    return f"{told}, which leaves {ranks} ranks idle for {idle:.0%} of the time; {enough} ranks would be as quick"


def nearest_without_idle(packs_in_step: int, ranks: int) -> int:
    """Return the number of packs a step nearest to this one at which no rank idles."""
    return max(1, round(packs_in_step / ranks)) * ranks
