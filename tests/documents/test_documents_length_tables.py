"""Length tables are what the processor makes, for both numbers of crops."""

import numpy as np

from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.documents.length_tables import NUM_CROPS, length_tables
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader


def test_tokens_and_crops_are_those_of_the_documents(small_demo):
    index = load_index(small_demo.folder / "shards")
    model = str(small_demo.folder / "base")
    tables = length_tables(index, model, DocumentOptions())
    assert [table.num_crops for table in tables] == list(NUM_CROPS)
    for table in tables:
        processor = DocumentProcessor.from_folder(model, DocumentOptions(num_crops=table.num_crops))
        for number in range(0, len(index), 7):
            document = processor.document(ShardReader(index).sample(number))
            assert table.tokens[number] == len(document.input_ids)
            assert table.crops[number] == sum(len(crops) + 1 for crops in document.crops)  # and the global view


def test_without_a_model_pictures_alone_are_counted_by_the_official_formula(small_demo):
    index = load_index(small_demo.folder / "shards")
    for table in length_tables(index, None, DocumentOptions()):
        assert len(table.tokens) == len(index)
        for number in range(0, len(index), 7):
            ((width, height),) = index.sizes(number)
            ratio, scale = max(width, height) / min(width, height), 1
            while scale * np.ceil(scale / ratio) <= table.num_crops:
                scale += 1
            long = scale - 1
            short = -(-int(long * 336 / ratio) // 336)
            rows, columns = (long, short) if width < height else (short, long)
            assert table.tokens[number] == (rows * columns + 1) * 144 + 1 + (rows + 1) * 12
            assert table.crops[number] == rows * columns + 1
