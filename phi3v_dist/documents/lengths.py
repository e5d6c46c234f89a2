"""How long each document will be, without decoding a picture.

Enters: the columns of a shard index (texts, picture sizes). Leaves: token and crop counts per sample, what the plan
packs by. Picture tokens follow from width and height alone; answers are counted word by word, a block of samples at a
time, so that a million samples need no more memory than ten thousand.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from phi3v_dist.documents.crops import crop_grid, grid_tokens
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.documents.prompt import answer_text
from phi3v_dist.shards.index import as_numpy

BLOCK_SAMPLES = 10_000

Counts = NDArray[np.int32]
_Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DocumentLengths:
    """Counts per sample, each (samples,) int32 in the order of the index.

    ``tokens``: the whole document; ``supervised``: its answer with ``<|end|>``; ``crops``: what the vision tower sees,
    global views counted.
    """

    tokens: Counts
    supervised: Counts
    crops: Counts


def document_lengths(table: pa.Table, processor: DocumentProcessor) -> DocumentLengths:
    """Return the counts of all rows of ``table``; see ``length_blocks``."""
    return DocumentLengths(*np.concatenate([np.empty((3, 0), np.int32), *length_blocks(table, processor)], axis=1))


def length_blocks(table: pa.Table, processor: DocumentProcessor) -> Iterator[Counts]:
    """Yield (3, rows) int32, in the order of the rows: tokens, supervised, crops of ``BLOCK_SAMPLES`` rows at a time.

    Columns read: title, category (text), price (float), width, height (list of pixels per picture, after EXIF turn).
    Raises DocumentError for a price that is no number.
    """
    for first in range(0, len(table), BLOCK_SAMPLES):
        yield _count(table.slice(first, BLOCK_SAMPLES), processor)


def _count(table: pa.Table, processor: DocumentProcessor) -> Counts:
    rows = zip(*(table.column(name).to_pylist() for name in ("title", "category", "price")), strict=True)
    supervised = processor.template.answer_tokens([answer_text(*row) for row in rows])
    pictures = _integers(pc.list_value_length(table.column("width")))
    picture_tokens, picture_crops = _picture_counts(table, processor)
    texts = np.array([processor.template.prompt_text_tokens(k) for k in range(pictures.max(initial=0) + 1)])
    tokens = texts[pictures] + _sum_per_sample(picture_tokens, pictures) + supervised
    return np.stack([tokens, supervised, _sum_per_sample(picture_crops, pictures)]).astype(np.int32)


def _picture_counts(table: pa.Table, processor: DocumentProcessor) -> tuple[_Integers, _Integers]:
    """Tokens and crops (pictures,) of all pictures in the order of the rows."""
    width, height = (_integers(pc.list_flatten(table.column(name))) for name in ("width", "height"))
    rows, columns = crop_grid(width, height, processor.num_crops, processor.crop_size)
    return grid_tokens(rows, columns, processor.crop_tokens_side), rows * columns + 1


def _sum_per_sample(counts: _Integers, pictures: _Integers) -> _Integers:
    """Sum (pictures,) counts over each sample's pictures; a sample without a picture has 0."""
    totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    ends = np.cumsum(pictures)
    return totals[ends] - totals[ends - pictures]


def _integers(column: pa.ChunkedArray) -> _Integers:
    return as_numpy(column.combine_chunks()).astype(np.int64)
