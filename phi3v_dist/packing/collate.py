"""Documents of one pack → the tensors of one batch, laid end to end, nothing padded.

Enters: documents. Leaves: a ``Batch``. The shift by one (a position predicts its next token) is done here, document by
document, so that the last token of one document never predicts the first of the next. Crops stay uint8: the device
normalises them.

Shape letters: T tokens of the pack, D documents, M supervised positions, C crops, S side of a crop in pixels (0 where
the pack has no picture).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from phi3v_dist.documents.labels import IGNORED
from phi3v_dist.documents.processor import Document, DocumentProcessor

_NO_SAMPLE = -1
_SMALLEST_GRID = (1, 1)


@dataclass(frozen=True, eq=False)
class Batch:
    """One pack as tensors.

    ``input_ids`` (T,) int64, −k at the places of a document's k-th picture; ``positions`` (T,) int64, from 0 in each
    document; ``cu_seqlens`` (D + 1,) int32, where documents begin and the last ends; ``supervised`` (M,) int64,
    positions whose next token is scored, ``targets`` (M,) int64, that token; ``crops`` (C, 3, S, S) uint8 and
    ``grids`` (h, w) of all pictures in order; ``samples`` (D,) int64; ``damaged``: (sample number, reason) of the blank
    documents; ``weight``: 1.0, or 0.0 where the pack only keeps a rank in step.
    """

    input_ids: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    supervised: Tensor
    targets: Tensor
    crops: Tensor
    grids: tuple[tuple[int, int], ...]
    samples: Tensor
    damaged: tuple[tuple[int, str], ...] = ()
    weight: float = 1.0

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device; from pinned memory the copies don't wait."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Return the batch in pinned memory (the DataLoader calls this where it pins)."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, function) -> "Batch":  # type: ignore[no-untyped-def]
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if isinstance(value, Tensor)})


def collate(documents: Sequence[Document]) -> Batch:
    """Lay documents end to end. At least one document; their crops must be of one size."""
    lengths = np.array([len(document.input_ids) for document in documents])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    next_labels = np.append(np.concatenate([document.labels for document in documents])[1:], IGNORED)
    next_labels[ends - 1] = IGNORED
    supervised = np.flatnonzero(next_labels != IGNORED)
    return Batch(
        input_ids=torch.from_numpy(np.concatenate([document.input_ids for document in documents])),
        positions=torch.from_numpy(np.arange(ends[-1]) - np.repeat(starts, lengths)),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        supervised=torch.from_numpy(supervised),
        targets=torch.from_numpy(next_labels[supervised]),
        crops=_all_crops(documents),
        grids=tuple(grid for document in documents for grid in document.grids),
        samples=torch.tensor([document.sample for document in documents], dtype=torch.int64),
        damaged=tuple((document.sample, document.damage) for document in documents if document.damage is not None),
    )


def _all_crops(documents: Sequence[Document]) -> Tensor:
    crops = [torch.from_numpy(part) for document in documents for part in document.crops]
    return torch.cat(crops) if crops else torch.empty((0, 3, 0, 0), dtype=torch.uint8)


def blank_batch(processor: DocumentProcessor) -> Batch:
    """Return what a rank runs where a step has no pack left for it: one white picture, nothing scored, weight 0."""
    return replace(collate([processor.blank_document(_NO_SAMPLE, [_SMALLEST_GRID])]), weight=0.0)
