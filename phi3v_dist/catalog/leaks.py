"""Which side of the split each product is on, so that no picture stands on both.

Enters: products, the pictures each has by clusters of those that look alike (``likeness.py``), and on which side
products of earlier deliveries are. Leaves: a side for each product, or none where it would join both. Variants of one
product share pictures in every shop's export, so a split by code alone lets training see what it is tested on. Products
that share a picture are a group, also over others in between, and a group goes to one side: that of its products in
earlier deliveries, else the one that ``split.py`` gives to one of its codes.
"""

from typing import Final

import numpy as np

from phi3v_dist.catalog.connected import Parts
from phi3v_dist.catalog.split import is_heldout
from phi3v_dist.mapped_arrays import NewArray, blocks

TRAIN: Final = 0
HELDOUT: Final = 1
NO_SIDE: Final = 2  # it would join both
UNKNOWN: Final = -1
_NONE = np.iinfo(np.int64).max


def groups_of_products(
    num_products: int, owners: np.ndarray, clusters: np.ndarray, sides: np.ndarray | None = None,
    new: NewArray = np.zeros,
) -> np.ndarray:  # fmt: skip
    """Products that share a picture have the number of their first, int64 [products].

    ``owners``, ``clusters``: int [k], product owners[i] owns a picture of that cluster, a number below k. ``sides``:
    int8 [products], those with ``NO_SIDE`` tie no others.
    """
    groups, first_owner = Parts(num_products, new), new(len(owners), "i8")
    for part in blocks(len(owners)):
        first_owner[part] = _NONE
    for part in blocks(len(owners)):
        of, which = _kept(owners[part], clusters[part], sides)
        np.minimum.at(first_owner, which, of)
    for part in blocks(len(owners)):
        of, which = _kept(owners[part], clusters[part], sides)
        groups.join(of, first_owner[which])
    return groups.settled()


def sides_of(
    digests: np.ndarray, owners: np.ndarray, clusters: np.ndarray, known: np.ndarray, heldout_share: float,
    new: NewArray = np.zeros,
) -> np.ndarray:  # fmt: skip
    """Each product's side, int8 [products].

    ``digests``: SHA-256 of the codes, its first 16 bytes as big-endian uint64 [products, 2]; ``owners``, ``clusters``:
    as above; ``known``: sides of earlier deliveries or ``UNKNOWN``, int8 [products]. A new product that shares pictures
    with both sides gets ``NO_SIDE``; so do new ones that join the sides only together. ``new`` makes the arrays.
    """
    sides = _joining_both(owners, clusters, known, new)
    groups = groups_of_products(len(known), owners, clusters, sides, new)
    met, lowest = new((len(known), 2), "?"), _lowest_of_each_group(digests, groups, new)
    for part in blocks(len(known)):
        _meet(met, groups[part], known[part])
    for part in blocks(len(known)):
        group = groups[part]
        drawn = np.where(is_heldout(digests[lowest[group], 0], heldout_share), HELDOUT, TRAIN)
        of_group = met[group]
        choices = [of_group.all(1), of_group[:, HELDOUT], of_group[:, TRAIN]]
        open_to = np.select(choices, [NO_SIDE, HELDOUT, TRAIN], drawn)
        sides[part] = np.where(sides[part] == UNKNOWN, open_to, sides[part])
    return sides


def _kept(owners: np.ndarray, clusters: np.ndarray, sides: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if sides is None:
        return owners, clusters
    keep = sides[owners] != NO_SIDE
    return owners[keep], clusters[keep]


def _joining_both(owners: np.ndarray, clusters: np.ndarray, known: np.ndarray, new: NewArray) -> np.ndarray:
    """``known``, but ``NO_SIDE`` where a new product has pictures that both sides have: int8 [products]."""
    met, joins, sides = new((len(owners), 2), "?"), new((len(known), 2), "?"), new(len(known), "i1")
    for part in blocks(len(owners)):
        _meet(met, clusters[part], known[owners[part]])
    for part in blocks(len(owners)):
        for side in (TRAIN, HELDOUT):
            joins[owners[part][met[clusters[part], side]], side] = True
    for part in blocks(len(known)):
        sides[part] = np.where((known[part] == UNKNOWN) & joins[part].all(1), NO_SIDE, known[part])
    return sides


def _meet(met: np.ndarray, labels: np.ndarray, known: np.ndarray) -> None:
    """Write down which sides each label has met, bool [labels, 2]."""
    for side in (TRAIN, HELDOUT):
        met[labels[known == side], side] = True


def _lowest_of_each_group(digests: np.ndarray, groups: np.ndarray, new: NewArray) -> np.ndarray:
    """At each group's number the product whose digest's second half is lowest, int64 [products]: its code decides.

    Not the first half, which is what decides: then larger groups would be held out more often.
    """
    least, lowest = new(len(groups), "u8"), new(len(groups), "i8")
    for part in blocks(len(groups)):
        least[part], lowest[part] = np.iinfo(np.uint64).max, _NONE
    for part in blocks(len(groups)):
        np.minimum.at(least, groups[part], digests[part, 1])
    for part in blocks(len(groups)):
        at = digests[part, 1] == least[groups[part]]
        np.minimum.at(lowest, groups[part][at], np.flatnonzero(at) + part.start)
    return lowest
