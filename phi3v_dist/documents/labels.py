"""Which tokens of a document are learned: the answer and its ``<|end|>``, nothing else.

Enters: a document's ids and where its answer begins. Leaves: labels as the official scripts write them, so that the
question, the pictures and BOS never count. They are not shifted here: ``packing/collate`` shifts them per document.
"""

import numpy as np
from numpy.typing import NDArray

IGNORED = -100  # the value that PyTorch's cross entropy leaves out


def answer_labels(input_ids: NDArray[np.int64], answer_start: int) -> NDArray[np.int64]:
    """Return labels (tokens,) int64: the ids from ``answer_start`` on, before it ``IGNORED``."""
    labels = input_ids.copy()
    labels[:answer_start] = IGNORED
    return labels
