"""How long the documents of a shard folder will be, for both numbers of crops, without decoding a picture.

Enters: a ``ShardIndex``, and a model folder where there is one. Leaves: tokens and crops per sample for each number of
crops: with the texts where the tokenizer is known, else of the pictures alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.documents.crops import OFFICIAL_CROP_SIZE, TOKEN_SIDE, crop_grid, grid_tokens
from phi3v_dist.documents.length_cache import cached_lengths
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.shards.index import ShardIndex

NUM_CROPS = (16, 4)  # of the official model: for one picture, and for several or video


@dataclass(frozen=True, eq=False)
class LengthTable:
    """``tokens`` and ``crops`` (samples,) integers with at most ``num_crops`` crops per picture."""

    num_crops: int
    tokens: NDArray[np.integer]
    crops: NDArray[np.integer]


def length_tables(index: ShardIndex, model_folder: str | None, options: DocumentOptions) -> list[LengthTable]:
    """The lengths for each of ``NUM_CROPS``. ``model_folder`` None: of the pictures alone. Raises ``DocumentError``."""
    if model_folder is None:
        return [_of_pictures(index, num_crops) for num_crops in NUM_CROPS]
    tables = []
    for num_crops in NUM_CROPS:
        chosen = options.model_copy(update={"num_crops": num_crops})
        lengths = cached_lengths(index, DocumentProcessor.from_folder(model_folder, chosen))
        tables.append(LengthTable(num_crops, lengths.tokens, lengths.crops))
    return tables


def _of_pictures(index: ShardIndex, num_crops: int) -> LengthTable:
    starts, widths, heights = index.picture_sizes
    rows, columns = crop_grid(widths.astype(np.int64), heights.astype(np.int64), num_crops)
    tokens = grid_tokens(rows, columns, OFFICIAL_CROP_SIZE // TOKEN_SIDE)
    return LengthTable(num_crops, _per_sample(tokens, starts), _per_sample(rows * columns + 1, starts))


def _per_sample(counts: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return sums[starts[1:]] - sums[starts[:-1]]
