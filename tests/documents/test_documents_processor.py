"""Documents of real samples: pictures at their places, damaged samples that keep theirs."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.documents.processor import Document, DocumentProcessor
from phi3v_dist.errors import DocumentError
from phi3v_dist.images import ImageError
from phi3v_dist.shards.read import Sample


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> DocumentProcessor:
    return DocumentProcessor.from_folder(tiny_folder, DocumentOptions())


def _picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def _sample(sizes: list, title: str = "Bag", category: str = "Bags", price: float = 19.9, number: int = 0) -> Sample:
    return Sample(number, "k", "code", title, category, price, "USD", tuple(_picture(*size) for size in sizes))


def test_official_tokenizer_reads_and_writes_an_answer(official_folder: Path):
    processor = DocumentProcessor.from_folder(official_folder, DocumentOptions(num_crops=4))
    document = processor.document(_sample([(640, 480)], "Check Scarf", "Scarves", 1290.0))
    assert processor.decode(document.input_ids).strip() == (
        "What is shown in this image? Product: Check Scarf, Category: Scarves, Full Price: 1290"
    )


def test_picture_places_match_crops(tiny: DocumentProcessor):
    document = tiny.document(_sample([(80, 20), (20, 80)]))
    for number, (grid, crops) in enumerate(zip(document.grids, document.crops, strict=True), start=1):
        assert (document.input_ids == -number).sum() == (grid[0] * grid[1] + 1) * 4 + 1 + (grid[0] + 1) * 2
        assert crops.shape == (grid[0] * grid[1], 3, 56, 56) and crops.dtype == np.uint8
    assert (document.input_ids == -1).sum() == tiny.image_tokens(80, 20)


def test_labels_are_the_answer_and_its_end(tiny: DocumentProcessor):
    document = tiny.document(_sample([(40, 40)], title="Blue <|end|> Bag"))
    learned = document.labels[document.labels != -100]
    assert tiny.decode(learned) == "Product: Blue <|end|> Bag, Category: Bags, Full Price: 19.9"
    assert learned[-1] == tiny.end_ids[0] and (learned == tiny.end_ids[0]).sum() == 1
    assert document.labels[-len(learned) :].tolist() == learned.tolist()


def test_prompt_is_the_document_without_its_answer(tiny: DocumentProcessor):
    sample = _sample([(40, 70)])
    document = tiny.document(sample)
    prompt = tiny.prompt([Image.open(io.BytesIO(sample.images[0]))])
    assert prompt.input_ids.tolist() == document.input_ids[document.labels == -100].tolist()
    assert prompt.grids == document.grids and (prompt.crops[0] == document.crops[0]).all()


def test_blank_document_keeps_the_place_of_a_damaged_sample(tiny: DocumentProcessor):
    document = tiny.document(_sample([(80, 20), (20, 80)]))
    blank = tiny.blank_document(7, document.grids, len(document.input_ids), "truncated")
    assert isinstance(blank, Document)
    assert len(blank.input_ids) == len(document.input_ids) and (blank.labels == -100).all()
    assert ((blank.input_ids < 0) == (document.input_ids < 0)).all()
    assert [crops.shape for crops in blank.crops] == [crops.shape for crops in document.crops]
    assert all((crops == 255).all() for crops in blank.crops)
    assert (blank.sample, blank.damage) == (7, "truncated")


def test_broken_picture_is_an_image_error(tiny: DocumentProcessor):
    whole = _sample([(80, 80)])
    broken = Sample(**{**vars(whole), "images": (whole.images[0][:60],)})
    with pytest.raises(ImageError):
        tiny.document(broken)


def test_options_win_over_the_folders_num_crops(tiny_folder: Path):
    assert DocumentProcessor.from_folder(tiny_folder, DocumentOptions()).num_crops == 4
    assert DocumentProcessor.from_folder(tiny_folder, DocumentOptions(num_crops=9)).num_crops == 9


@pytest.mark.parametrize(
    ("settings", "found"),
    [({}, "num_crops"), ({"num_crops": 0}, "found 0"), ({"num_crops": 4, "crop_size": 60}, "found 60"),
     ({"num_crops": 4, "image_mean": [0.5, 0.5, 0.5]}, "image_mean"), ([], "settings of")],
)  # fmt: skip
def test_wrong_settings_are_one_line(tiny_folder: Path, tmp_path: Path, settings: object, found: str):
    (tmp_path / "tokenizer.json").write_bytes((tiny_folder / "tokenizer.json").read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(DocumentError, match=found):
        DocumentProcessor.from_folder(tmp_path, DocumentOptions())
