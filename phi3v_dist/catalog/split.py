"""Which split a product belongs to.

Enters: its code and the share to hold out. Leaves: ``train`` or ``heldout``. By hash of the code alone, so a product
keeps its split whatever else the table holds, and a larger share only moves products from train to heldout. Where
products share pictures, one of their codes decides for all (``leaks.py``).
"""

import hashlib
import math
from typing import Literal

import numpy as np


def split_of(code: str, heldout_share: float) -> Literal["train", "heldout"]:
    """The split of a product. ``heldout_share`` from 0 (none is held out) to 1 (all are)."""
    return "heldout" if is_heldout(code_digest(code)[:1], heldout_share)[0] else "train"


def is_far_off(num_heldout: int, num_products: int, heldout_share: float) -> bool:
    """Whether so many held-out products are far from the share: by more than chance, and enough to matter.

    Chance: three standard deviations of as many independent draws. To matter: a fifth of the share.
    """
    expected = heldout_share * num_products
    difference = abs(num_heldout - expected)
    return difference > 3 * math.sqrt(expected * (1 - heldout_share)) and difference > expected / 5


def code_digest(code: str) -> np.ndarray:
    """The first 16 bytes of the code's SHA-256, as two big-endian numbers: uint64 [2]."""
    return np.frombuffer(hashlib.sha256(code.encode()).digest()[:16], ">u8").astype(np.uint64)


def is_heldout(first_halves: np.ndarray, heldout_share: float) -> np.ndarray:
    """Whether products are held out, by the first numbers of their digests: uint64 [n] → bool [n]."""
    return (first_halves >> np.uint64(16)).astype(np.float64) < heldout_share * 2.0**48
