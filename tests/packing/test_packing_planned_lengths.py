"""Documents longer than a pack: refused, left out or cut; sums of shards and the documents that take part agree."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.errors import DocumentError
from phi3v_dist.packing.order import Source
from phi3v_dist.packing.planned_lengths import PlannedLengths

PACK = 64


def planned(tokens: list, supervised: list, rule: str, shards: tuple = ((0, None),)) -> PlannedLengths:
    bounds = np.array([[first, len(tokens) if end is None else end] for first, end in shards]).reshape(-1, 2)
    options = PackingOptions(pack_tokens=PACK, long_documents=rule)
    return PlannedLengths(np.array(tokens), np.array(supervised), [Source(bounds)], options)


def test_a_long_document_stops_before_training():
    with pytest.raises(DocumentError, match=r"2 documents are longer.*longest has 99.*pack_tokens=99.*drop"):
        planned([10, 65, 99, 64], [5] * 4, "error")


def test_long_documents_are_dropped_counted_and_named():
    lengths = planned([10, 65, 99, 64], [5] * 4, "drop", ((0, 2), (2, 4)))
    assert (lengths.documents, lengths.dropped, lengths.long_documents) == (2, 2, 2)
    assert list(lengths.too_long()) == [1, 2]
    assert lengths.longest == 64


def test_truncation_cuts_the_text_and_never_a_picture():
    lengths = planned([10, 70, 90, 64], [5, 20, 20, 30], "truncate")
    assert lengths.numbers(0, 4).tolist() == [0, 1, 3]  # the third has 70 tokens of prompt
    assert lengths.tokens(np.arange(4)).tolist() == [10, 64, 64, 64]
    assert lengths.supervised(np.array([0, 1, 3])).tolist() == [5, 14, 30]
    assert (lengths.dropped, lengths.long_documents, lengths.longest) == (1, 2, 64)


def test_the_longest_is_the_longest_that_takes_part():
    assert planned([5, 40, 90, 12], [2] * 4, "drop", ((0, 2), (2, 4))).longest == 40


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=60), st.data())
def test_sums_are_those_of_the_documents_that_take_part(pairs: list, data: st.DataObject):
    tokens = [prompt + answer for prompt, answer in pairs]
    rule = data.draw(st.sampled_from(["drop", "truncate"]))
    ends = sorted({0, len(tokens), *data.draw(st.lists(st.integers(0, len(tokens)), max_size=5))})
    shards = list(pairwise(ends))
    lengths = planned(tokens, [answer for _, answer in pairs], rule, tuple(shards))
    # A cut document keeps its prompt, a token of text and the end.
    fit = [n for n, (prompt, _) in enumerate(pairs) if tokens[n] <= PACK or (rule == "truncate" and prompt + 2 <= PACK)]
    numbers = np.concatenate([lengths.numbers(first, end) for first, end in shards])
    assert numbers.tolist() == fit
    assert lengths.shard_documents[0].tolist() == [sum(first <= n < end for n in fit) for first, end in shards]
    assert lengths.source_tokens == [sum(min(tokens[n], PACK) for n in fit)]
    assert lengths.tokens(numbers).sum() == lengths.source_tokens[0]
    assert (lengths.supervised(numbers) >= 1).all()
    assert lengths.dropped == len(tokens) - len(fit)
    assert list(lengths.too_long()) == [n for n, length in enumerate(tokens) if length > PACK]


def test_samples_outside_the_shards_count_for_nothing():
    lengths = planned([10, 20, 99, 30], [5] * 4, "error", ((0, 1), (3, 4)))
    assert (lengths.documents, lengths.source_tokens, lengths.long_documents) == (2, [40], 0)
