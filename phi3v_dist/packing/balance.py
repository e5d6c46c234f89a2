"""Which packs share a step: groups of packs that cost alike, dealt to the steps at random.

Enters: what each pack costs the vision tower and the language model. Leaves: for each step its packs, groups side by
side. Under ZeRO-3 all ranks wait for the slowest in every micro-step, first in the vision tower, then in the language
model, so packs that run at the same time should be alike in both. Packs of several steps are split in halves again and
again, each time along the cost that differs more, until a group is left; which step a group comes to is drawn, so that
no step is made of one kind. Equal sums per rank, what other balancers aim at, leave the micro-steps unequal (facts:
data.md, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi3v_dist.costs import ModelSizes, attention_flops, crop_flops, image_token_flops, token_flops

Numbers = NDArray[np.int64]
Costs = NDArray[np.float64]

_LEAST_GROUPS = 4  # of a step: of one group it would be packs of one kind
_TOKENS_IN_CROP = 144
_SIZES = ModelSizes()  # the real model's: a plan is the same whichever model reads it
_TOKEN = token_flops(_SIZES)
_SQUARED_LENGTH = attention_flops(_SIZES, [1])
_CROP = crop_flops(_SIZES) + _TOKENS_IN_CROP * image_token_flops(_SIZES)


def pack_costs(tokens: Numbers, crops: Numbers, starts: Numbers) -> Costs:
    """Forward FLOPs of packs, float64 [2, packs]: of the vision tower, of the language model (costs.py).

    ``tokens``, ``crops`` [documents]: of each document, pack by pack; ``starts`` [packs]: first document of each.
    """
    squares = np.add.reduceat(tokens.astype(np.float64) ** 2, starts)
    language = _TOKEN * np.add.reduceat(tokens, starts) + _SQUARED_LENGTH * squares
    return np.stack([_CROP * np.add.reduceat(crops, starts), language])


def deal_packs(costs: Costs, step_sizes: Sequence[int], group_packs: int, random: np.random.Generator) -> list[Numbers]:
    """Return the packs of each step, places in ``costs`` [2, packs], cheap groups first.

    ``step_sizes``: packs of each step, all of ``costs`` in sum. ``group_packs``: packs of a group, about: each step is
    cut into equal groups of at most so many, and into four at least.
    """
    slots = [_Slot(step, size) for step, packs in enumerate(step_sizes) for size in _group_sizes(packs, group_packs)]
    slots = [slots[place] for place in random.permutation(len(slots))]
    total = costs.sum(axis=0)
    groups: list[list[Numbers]] = [[] for _ in step_sizes]
    for slot, places in zip(slots, _alike(np.arange(costs.shape[1]), slots, costs), strict=True):
        groups[slot.step].append(places[np.argsort(total[places], kind="stable")])
    return [np.concatenate(sorted(step, key=lambda places: float(total[places].mean()))) for step in groups]


@dataclass(frozen=True)
class _Slot:
    """Room for one group in a step."""

    step: int
    size: int


def _group_sizes(packs: int, group_packs: int) -> list[int]:
    count = max(-(-packs // group_packs), min(_LEAST_GROUPS, packs))
    return [packs // count + (number < packs % count) for number in range(count)]


def _alike(places: Numbers, slots: Sequence[_Slot], costs: Costs) -> list[Numbers]:
    """Split packs into groups of the slots' sizes, in their order."""
    if len(slots) == 1:
        return [places]
    half = len(slots) // 2
    count = sum(slot.size for slot in slots[:half])
    here = costs[:, places]
    along = here[np.argmax(np.ptp(here, axis=1))]
    places = places[np.argsort(along, kind="stable")]
    return _alike(places[:count], slots[:half], costs) + _alike(places[count:], slots[half:], costs)
