"""Batches: what one document alone would score is what it scores in a pack."""

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.documents.processor import Document
from phi3v_dist.packing.collate import blank_batch, collate

tokens = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12)


def _text(ids_and_learned: list, sample: int = 0) -> Document:
    ids = np.array([token for token, _ in ids_and_learned], dtype=np.int64)
    labels = np.array([token if learned else -100 for token, learned in ids_and_learned], dtype=np.int64)
    return Document(ids, [], [], labels, sample)


@given(st.lists(tokens, min_size=1, max_size=6))
def test_pack_scores_what_its_documents_score_alone(parts: list):
    batch = collate([_text(part) for part in parts])
    scored, place = [], 0
    for part in parts:
        scored += [(place + t, part[t + 1][0]) for t in range(len(part) - 1) if part[t + 1][1]]
        place += len(part)
    assert list(zip(batch.supervised.tolist(), batch.targets.tolist(), strict=True)) == scored
    assert batch.positions.tolist() == [t for part in parts for t in range(len(part))]
    assert batch.cu_seqlens.tolist() == [0, *np.cumsum([len(part) for part in parts]).tolist()]
    assert batch.input_ids.tolist() == [token for part in parts for token, _ in part]


def test_dtypes_are_those_the_model_reads(number_processor: Callable):
    processor = number_processor(np.array([4, 6]))
    batch = collate([processor.document(0), processor.document(1)])
    integers = (batch.input_ids, batch.positions, batch.supervised, batch.targets, batch.samples)
    assert {tensor.dtype for tensor in integers} == {torch.int64}
    assert batch.cu_seqlens.dtype == torch.int32 and batch.crops.dtype == torch.uint8
    assert batch.crops.shape == (4, 3, 4, 4) and batch.grids == ((1, 2), (1, 2))
    assert batch.samples.tolist() == [0, 1] and batch.weight == 1.0


def test_pack_without_picture_has_no_crops():
    batch = collate([_text([(1, True), (2, True)])])
    assert batch.crops.shape[:2] == (0, 3) and batch.grids == ()


def test_blank_batch_scores_nothing_and_weighs_nothing(number_processor: Callable):
    batch = blank_batch(number_processor(np.array([4])))
    assert batch.weight == 0.0 and len(batch.supervised) == len(batch.targets) == 0
    assert batch.grids == ((1, 1),) and (batch.crops == 255).all()
    assert batch.damaged == ()


def test_batch_moves_as_a_whole(number_processor: Callable):
    batch = collate([number_processor(np.array([4])).document(0)]).to("meta")
    assert batch.input_ids.device.type == batch.crops.device.type == "meta"
    assert batch.grids == ((1, 2),)
