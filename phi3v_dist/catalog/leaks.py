"""Which side of the split each product is on, so that no picture stands on both.

Enters: products, the pictures each has by clusters of those that look alike (``likeness.py``), and on which side
products of earlier deliveries are. Leaves: a side for each product, or none where it would join both. Variants of one
product share pictures in every shop's export, so a split by code alone lets training see what it is tested on. Products
that share a picture are a group, also over others in between, and a group goes to one side: that of its products in
earlier deliveries, else the one that ``split.py`` gives to one of its codes.
"""

from typing import Final

import numpy as np

from phi3v_dist.catalog.likeness import connected
from phi3v_dist.catalog.split import is_heldout

TRAIN: Final = 0
HELDOUT: Final = 1
NO_SIDE: Final = 2  # it would join both
UNKNOWN: Final = -1


def groups_of_products(num_products: int, owners: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Products that share a picture have one number, int32 [products].

    ``owners``, ``clusters``: int [k], product k owns a picture of that cluster.
    """
    most = int(clusters.max(initial=-1)) + 1
    return connected(num_products + most, owners, clusters + num_products)[:num_products]


def sides_of(
    digests: np.ndarray, owners: np.ndarray, clusters: np.ndarray, known: np.ndarray, heldout_share: float
) -> np.ndarray:
    """Each product's side, int8 [products].

    ``digests``: SHA-256 of the codes, its first 16 bytes as big-endian uint64 [products, 2]; ``owners``, ``clusters``:
    as above; ``known``: sides of earlier deliveries or ``UNKNOWN``, int8 [products]. A new product that shares pictures
    with both sides gets ``NO_SIDE``; so do new ones that join the sides only together.
    """
    sides = known.astype(np.int8).copy()
    new = known == UNKNOWN
    of_clusters = _sides_met(owners, clusters, known)
    joins = np.zeros((len(known), 2), bool)
    for side in (TRAIN, HELDOUT):
        np.logical_or.at(joins[:, side], owners, of_clusters[clusters, side])
    sides[new & joins.all(1)] = NO_SIDE
    keep = sides[owners] != NO_SIDE
    groups = groups_of_products(len(known), owners[keep], clusters[keep])
    of_groups = _sides_met(np.arange(len(known)), groups, known)
    drawn = _draw(digests, groups, heldout_share)
    open_to = np.select(
        [of_groups.all(1), of_groups[:, HELDOUT], of_groups[:, TRAIN]], [NO_SIDE, HELDOUT, TRAIN], drawn
    )
    todo = new & (sides != NO_SIDE)
    sides[todo] = open_to[groups[todo]]
    return sides


def _sides_met(owners: np.ndarray, labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether a product known to be on a side has a label, bool [labels, 2]."""
    met = np.zeros((int(labels.max(initial=-1)) + 1, 2), bool)
    for side in (TRAIN, HELDOUT):
        met[labels[known[owners] == side], side] = True
    return met


def _draw(digests: np.ndarray, groups: np.ndarray, heldout_share: float) -> np.ndarray:
    """The side of each group by one of its codes: the one whose digest's second half is lowest.

    Not the first half, which is what decides: then larger groups would be held out more often.
    """
    order = np.lexsort((digests[:, 1], groups))
    first = order[np.searchsorted(groups[order], np.arange(int(groups.max(initial=-1)) + 1))]
    return np.where(is_heldout(digests[first, 0], heldout_share), HELDOUT, TRAIN).astype(np.int8)
