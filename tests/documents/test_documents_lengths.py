"""Lengths without a picture decoded are those of the documents that are really built."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.documents import lengths as lengths_module
from phi3v_dist.documents.lengths import DocumentLengths, document_lengths
from phi3v_dist.documents.processor import Document, DocumentProcessor
from phi3v_dist.errors import DocumentError
from phi3v_dist.shards.read import Sample

sizes = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=3)
products = st.tuples(sizes, st.text(max_size=20), st.text(max_size=10), st.floats(0.01, 1e6))
settings_of_all_kinds = [
    DocumentOptions(template=template, num_crops=crops) for template in ("mission", "official") for crops in (4, 16)
]


def _picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def _document(processor: DocumentProcessor, pictures: list, title: str, category: str, price: float) -> Document:
    images = tuple(_picture(*size) for size in pictures)
    return processor.document(Sample(0, "k", "code", title, category, price, "USD", images))


def _table(rows: list) -> pa.Table:
    pictures, titles, categories, prices = (list(column) for column in zip(*rows, strict=True))
    return pa.table(
        {
            "title": titles,
            "category": pa.array(categories).dictionary_encode(),  # as the index has it
            "price": prices,
            "width": pa.array([[w for w, _ in part] for part in pictures], pa.list_(pa.int32())),
            "height": pa.array([[h for _, h in part] for part in pictures], pa.list_(pa.int32())),
        }
    )


def _check(lengths: DocumentLengths, documents: list[Document]) -> None:
    assert lengths.tokens.tolist() == [len(document.input_ids) for document in documents]
    assert lengths.supervised.tolist() == [int((document.labels != -100).sum()) for document in documents]
    assert lengths.crops.tolist() == [sum(1 + len(crops) for crops in document.crops) for document in documents]
    assert {counts.dtype for counts in (lengths.tokens, lengths.supervised, lengths.crops)} == {np.dtype(np.int32)}


@pytest.mark.parametrize("options", settings_of_all_kinds, ids=str)
@given(rows=st.lists(products, min_size=1, max_size=6))
@settings(max_examples=25)
def test_lengths_are_those_of_the_documents(tiny_folder: Path, options: DocumentOptions, rows: list):
    processor = DocumentProcessor.from_folder(tiny_folder, options)
    _check(document_lengths(_table(rows), processor), [_document(processor, *row) for row in rows])


@pytest.mark.parametrize("options", settings_of_all_kinds, ids=str)
def test_official_lengths_are_those_of_the_documents(official_folder: Path, options: DocumentOptions):
    processor = DocumentProcessor.from_folder(official_folder, options)
    rows = [
        ([(640, 480)], "Check Scarf", "Scarves", 1290.0),
        ([(30, 99), (50, 50), (1200, 300)], "Größe  <|end|>\n包 🧣", "B/C", 1.5),
        ([], "no picture", "", 0.05),
    ]
    _check(document_lengths(_table(rows), processor), [_document(processor, *row) for row in rows])


def test_blocks_change_no_length(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):
    processor = DocumentProcessor.from_folder(tiny_folder, DocumentOptions())
    rows = [([(10 + n, 40)] * (n % 3), f"Bag {n}" * (n % 5), "Bags", n + 0.5) for n in range(11)]
    halves = pa.concat_tables([_table(rows[:5]), _table(rows[5:])])  # columns of several chunks
    monkeypatch.setattr(lengths_module, "BLOCK_SAMPLES", 4)
    _check(document_lengths(halves, processor), [_document(processor, *row) for row in rows])


def test_no_sample_has_no_length(tiny_folder: Path):
    table = _table([([], "a", "b", 1.0)]).slice(0, 0)
    _check(document_lengths(table, DocumentProcessor.from_folder(tiny_folder, DocumentOptions())), [])


def test_a_price_that_is_no_number_is_named(tiny_folder: Path):
    processor = DocumentProcessor.from_folder(tiny_folder, DocumentOptions())
    with pytest.raises(DocumentError, match=r"price: is no number \(found nan\)"):
        document_lengths(_table([([], "a", "b", float("nan"))]), processor)
