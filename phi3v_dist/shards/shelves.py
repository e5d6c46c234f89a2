"""Which products stand in which tar file, before a single picture is looked at.

Enters: the products that passed the checks of the table. Leaves: shelves. A shelf is a run of neighbouring products
of one split; those with a right picture become one tar file. As no shelf depends on the pictures of another, any
number of processes on any number of machines can make them in any order, each gives the same bytes, and one that is
finished stays finished. The price: a tar file has fewer samples where pictures were rejected, and where none of a shelf
was right it is left out.

Within a split the products lie in the order of their codes' SHA-256. A product table is usually sorted by category,
and a window of neighbouring shards is what training shuffles: it has to be a fair draw. A hash needs no seed, and a
product keeps its place among the others when products are added.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from phi3v_dist.catalog.checks import Product
from phi3v_dist.catalog.split import split_of
from phi3v_dist.errors import ConfigError
from phi3v_dist.shards.manifest import SPLITS


@dataclass(frozen=True)
class Shelf:
    """``tar``: the tar file's path in the shard folder, such as ``train/train-000000.tar``."""

    split: str
    tar: str
    products: tuple[Product, ...]


@dataclass(frozen=True)
class Part:
    """One of ``count`` processes that share the shelves; ``number`` from 1."""

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

    def of(self, shelves: Sequence[Shelf]) -> Sequence[Shelf]:
        """Every ``count``-th shelf, so that all parts have the same work."""
        return shelves[self.number - 1 :: self.count]


def fill_shelves(products: Iterable[Product], heldout_share: float, samples_per_shard: int) -> list[Shelf]:
    """All shelves: training products first."""
    placed = [(split_of(product.code, heldout_share), digest_of(product.code), product) for product in products]
    placed.sort(key=lambda place: (SPLITS.index(place[0]), place[1]))
    shelves = []
    for split, group in groupby(placed, key=lambda place: place[0]):
        of_split = tuple(product for *_, product in group)
        for number, start in enumerate(range(0, len(of_split), samples_per_shard)):
            some = of_split[start : start + samples_per_shard]
            shelves.append(Shelf(split, f"{split}/{split}-{number:06d}.tar", some))
    return shelves


def digest_of(code: str) -> str:
    """Hexadecimal SHA-256 of a product's code."""
    return hashlib.sha256(code.encode()).hexdigest()
