"""Which split a product belongs to.

Enters: its code and the share to hold out. Leaves: ``train`` or ``heldout``. By hash of the code alone, so a product
keeps its split whatever else the table holds, and a larger share only moves products from train to heldout.
"""

import hashlib
from typing import Literal


def split_of(code: str, heldout_share: float) -> Literal["train", "heldout"]:
    """The split of a product. ``heldout_share`` from 0 (none is held out) to 1 (all are)."""
    draw = int.from_bytes(hashlib.sha256(code.encode()).digest()[:6])
    return "heldout" if draw < heldout_share * 2**48 else "train"
