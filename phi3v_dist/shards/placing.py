"""Which products stand in which tar file, once all pictures are known.

Enters: checked products and their good pictures, and what earlier deliveries of the folder hold. Leaves: for each split
the products in order, cut into shelves (each becomes one tar file), and those that belong to neither split. Whoever
places them, on whatever machine, places them alike.

Within a split the products lie in the order of their codes' SHA-256. A product table is usually sorted by category,
and a window of neighbouring shards is what training shuffles: it has to be a fair draw. A hash needs no seed, and a
product keeps its place among the others when products are added.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from phi3v_dist.catalog.leaks import HELDOUT, NO_SIDE, TRAIN, UNKNOWN, groups_of_products, sides_of
from phi3v_dist.catalog.likeness import clusters_that_look_alike
from phi3v_dist.errors import ConfigError
from phi3v_dist.mapped_arrays import NewArray, Sorting, blocks, chosen, numbers
from phi3v_dist.shards.manifest import SPLITS

_SIDES = {"train": TRAIN, "heldout": HELDOUT}


@dataclass(frozen=True)
class Shelf:
    """``tar``: the tar file's path in the shard folder; ``start``, ``stop``: its products in their split's order."""

    split: str
    tar: str
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """One of ``count`` processes that share the work; ``number`` from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """``K/N``. Raises ``ConfigError``."""
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        part = cls(*map(int, found.groups())) if found else cls(0)
        if not 1 <= part.number <= part.count:
            mend = "Give K/N with K from 1 to N, as in --part 2/8."
            raise ConfigError("no part of a whole", where="--part", value=text, mend=mend)
        return part


ALL = Part()


@dataclass(frozen=True)
class Earlier:
    """What earlier deliveries of a folder hold: per product its code and side, per picture its product and fingerprint.

    ``fingerprints``: block by block, to be read once. ``currency``: of most of their products. ``num_tars``: by split,
    highest number + 1.
    """

    codes: Sequence[str] = ()
    sides: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))
    owners: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    fingerprints: Iterable[np.ndarray] = ()
    currency: str = ""
    num_tars: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))


@dataclass(frozen=True)
class Placement:
    """Product numbers: ``order`` of each split; ``linked``, which would join both; ``largest_group``, of products that
    share pictures.
    """

    order: dict[str, np.ndarray]
    linked: np.ndarray
    largest_group: np.ndarray


def place(
    digests: np.ndarray, owners: np.ndarray, fingerprints: np.ndarray | None, earlier: Earlier, heldout_share: float,
    new: NewArray = np.zeros,
) -> Placement:  # fmt: skip
    """Place all products that own a picture.

    ``digests``: uint64 [products, 2]; ``owners``: product of each picture, int64 [pictures], rising; ``fingerprints``:
    uint8 [earlier pictures + pictures, 768], may be a mapped file; None where the pictures weren't checked, so that no
    two are taken for alike. ``new`` makes the arrays, which with a million products are better in files.
    """
    ahead, count, earlier_pictures = len(earlier.sides), len(digests), len(earlier.owners)
    all_owners = new(earlier_pictures + len(owners), "i8")
    all_owners[:earlier_pictures] = earlier.owners
    np.add(owners, ahead, out=all_owners[earlier_pictures:])
    clusters = numbers(new, len(all_owners)) if fingerprints is None else clusters_that_look_alike(fingerprints, new)
    known = new(ahead + count, "i1")
    known[:ahead], known[ahead:] = earlier.sides, UNKNOWN
    all_digests = new((ahead + count, 2), "u8")
    all_digests[ahead:] = digests
    sides = sides_of(all_digests, all_owners, clusters, known, heldout_share, new)[ahead:]
    shown = new(count, "?")
    for part in blocks(len(owners)):
        shown[owners[part]] = True
    groups = groups_of_products(ahead + count, all_owners, clusters, new=new)[ahead:]
    return Placement(
        {split: _in_order(digests, shown, sides, side, new) for split, side in _SIDES.items()},
        chosen(new, count, lambda part: shown[part] & (sides[part] == NO_SIDE)),
        _largest(groups, shown, new),
    )


def _in_order(digests: np.ndarray, shown: np.ndarray, sides: np.ndarray, side: int, new: NewArray) -> np.ndarray:
    """Products of a side by their codes' digests, int64."""
    there = chosen(new, len(shown), lambda part: shown[part] & (sides[part] == side))
    order, stop = new(len(there), "i8"), 0
    for places in Sorting(new, len(there), lambda part: digests[there[part], 0]).whole_blocks():
        products = there[places]
        stop += len(products)
        order[stop - len(products) : stop] = products[np.lexsort((digests[products, 1], digests[products, 0]))]
    return order


def _largest(groups: np.ndarray, shown: np.ndarray, new: NewArray) -> np.ndarray:
    """Products of the largest group that have pictures, int64, rising."""
    if not len(groups):
        return groups
    sizes = new(int(groups.max()) + 1, "i8")
    for part in blocks(len(groups)):
        np.add.at(sizes, groups[part][shown[part]], 1)
    largest = sizes.argmax()
    return chosen(new, len(groups), lambda part: shown[part] & (groups[part] == largest))


def cut_into_shelves(order: dict[str, np.ndarray], samples_per_shard: int, num_tars: dict[str, int]) -> list[Shelf]:
    """All shelves, training products first; tar files are numbered behind those that are there."""
    shelves = []
    for split in SPLITS:
        for number, start in enumerate(range(0, len(order[split]), samples_per_shard), num_tars[split]):
            stop = min(start + samples_per_shard, len(order[split]))
            shelves.append(Shelf(split, f"{split}/{split}-{number:06d}.tar", start, stop))
    return shelves
