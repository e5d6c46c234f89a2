"""Drawn lengths of documents: catalogues of one picture per product, and mixtures with texts and several pictures.

Enters: a number of documents, the most crops of a picture, a seed. Leaves: tokens and crops of each document. The
distributions are those that the targets of packing were set for; a document is a picture's tokens by the HD transform
(documents/crops.py) and a text of 20 to 120 tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi3v_dist.documents.crops import OFFICIAL_CROP_SIZE, TOKEN_SIDE, crop_grid, grid_tokens

Numbers = NDArray[np.int64]

# width : height, share; the last class is free
_SHAPES = (
    (1, 1, 0.55),
    (3, 4, 0.14),
    (4, 5, 0.10),
    (2, 3, 0.08),
    (4, 3, 0.05),
    (3, 2, 0.03),
    (16, 9, 0.01),
    (1, 1, 0.04),
)
_KINDS = (0.70, 0.15, 0.10, 0.05)  # one picture, several, text, long text
_SEVERAL = {2: 0.40, 3: 0.25, 4: 0.17, 5: 0.10, 6: 0.08}


@dataclass(frozen=True, eq=False)
class Mix:
    """``tokens``, ``supervised``, ``crops`` int32 [documents]."""

    tokens: NDArray[np.int32]
    supervised: NDArray[np.int32]
    crops: NDArray[np.int32]


def catalogue(documents: int, num_crops: int, seed: int = 0) -> Mix:
    """Products with one picture each."""
    random = np.random.default_rng(seed)
    tokens, crops = _pictures(random, documents, num_crops)
    text = _texts(random, documents)
    return _mix(tokens + text, text, crops)


def mixed(documents: int, num_crops: int, seed: int = 0) -> Mix:
    """Products with one picture or several, short and long texts without any."""
    random = np.random.default_rng(seed)
    kind = random.choice(len(_KINDS), documents, p=_KINDS)
    text = _texts(random, documents)
    several = random.choice(list(_SEVERAL), documents, p=list(_SEVERAL.values()))
    pictures = np.select([kind == 0, kind == 1], [1, several], 0)
    picture_tokens, picture_crops = _pictures(random, int(pictures.sum()), num_crops)
    tokens = _sums(picture_tokens, pictures) + text + np.maximum(pictures - 1, 0) * (text // 2 + 3)
    short = np.clip(np.round(np.exp(random.normal(np.log(400), 1.2, documents))), 16, 8192)
    long = np.round(np.exp(random.uniform(np.log(1e4), np.log(1e5), documents)))
    tokens = np.select([kind < 2, kind == 2], [tokens, short], long)
    return _mix(tokens, np.where(kind < 2, text, tokens // 2), _sums(picture_crops, pictures))


MIXES = {"catalogue": catalogue, "mixed": mixed}


def _mix(*columns: NDArray) -> Mix:
    return Mix(*(column.astype(np.int32) for column in columns))


def _texts(random: np.random.Generator, count: int) -> Numbers:
    return np.clip(np.round(np.exp(random.normal(np.log(50), 0.4, count))), 20, 120).astype(np.int64)


def _pictures(random: np.random.Generator, count: int, num_crops: int) -> tuple[Numbers, Numbers]:
    """Tokens and crops (global views counted) of pictures of a shop."""
    widths, heights, shares = (np.array(column, float) for column in zip(*_SHAPES, strict=True))
    shape = random.choice(len(_SHAPES), count, p=shares)
    free = np.exp(random.normal(-0.15, 0.35, count))
    ratio = np.where(shape == len(_SHAPES) - 1, free, (widths / heights)[shape])
    ratio = np.where(random.random(count) < 0.3, ratio * random.uniform(0.985, 1.015, count), ratio)
    long_side = np.clip(np.exp(random.normal(np.log(1000), 0.45, count)), 300, 3000)
    width, height = (np.maximum(1, np.round(side)).astype(np.int64) for side in (
        np.where(ratio >= 1, long_side, long_side * ratio), np.where(ratio >= 1, long_side / ratio, long_side)
    ))  # fmt: skip
    rows, columns = crop_grid(width, height, num_crops)
    return grid_tokens(rows, columns, OFFICIAL_CROP_SIZE // TOKEN_SIDE), rows * columns + 1


def _sums(values: Numbers, counts: Numbers) -> Numbers:
    totals = np.concatenate([[0], np.cumsum(values)])
    ends = np.cumsum(counts)
    return totals[ends] - totals[ends - counts]
