"""What a person is shown is the document that training reads: every token, every label, every crop."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import run_tool
from PIL import Image
from reference_crops import drawn_picture

from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.documents.crops import finish_crops
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.documents.show import crops_picture, load_shown, token_text
from phi3v_dist.errors import DocumentError, ShardError
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import Sample


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> DocumentProcessor:
    return DocumentProcessor.from_folder(tiny_folder, DocumentOptions())


def sample(*sizes: tuple[int, int], title: str = "Bag") -> Sample:
    pictures = []
    for size in sizes:
        buffer = io.BytesIO()
        drawn_picture(*size).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    return Sample(3, "k", "code", title, "Bags", 19.9, "USD", tuple(pictures))


def test_every_token_is_shown_and_learned_ones_stand_between_marks(tiny: DocumentProcessor):
    document = tiny.document(sample((80, 20), (20, 80), title="<|end|>"))
    shown = token_text(document, tiny).plain
    before, learned = shown.rstrip(" »").split("« ")
    pieces = [tiny.template.tokenizer.id_to_token(token) for token in document.input_ids[document.labels != -100]]
    assert learned.split(" ") == pieces and pieces[-1] == "<|end|>" and pieces.count("<|end|>") == 1
    places = [(document.input_ids == -number).sum() for number in (1, 2)]
    first, second = (
        f"[picture {n + 1}: {places[n]} tokens, {h} × {w} crops]" for n, (h, w) in enumerate([(1, 4), (4, 1)])
    )
    assert f"{first} <s> {second} <s> " in before
    assert before.startswith("<s> <|user|> ") and before.endswith("<|end|> <|assistant|> ")
    text = document.input_ids[(document.labels == -100) & (document.input_ids >= 0)]
    rest = before.replace(first + " ", "").replace(second + " ", "").split()
    assert rest == [tiny.template.tokenizer.id_to_token(token) for token in text]


def test_learned_tokens_alone_are_green(tiny: DocumentProcessor):
    document = tiny.document(sample((40, 40)))
    text = token_text(document, tiny)
    green = [text.plain[span.start : span.end].strip() for span in text.spans if "green" in str(span.style)]
    learned = document.input_ids[document.labels != -100]
    assert green == ["«", *map(tiny.template.tokenizer.id_to_token, learned), "»"]


def test_a_document_that_teaches_nothing_has_no_marks(tiny: DocumentProcessor):
    text = token_text(tiny.blank_document(0, [(1, 1)]), tiny)
    assert not set("«»") & set(text.plain)


def test_each_crop_lies_at_its_place(tiny: DocumentProcessor):
    document = tiny.document(sample((80, 40), (40, 80)))
    sheet = np.asarray(crops_picture(document))
    assert document.grids == [(1, 2), (2, 1)]
    assert sheet.shape == (4 + 3 * 60, 4 + 3 * 60 + 4, 3)
    corners = {(0, 0): [(4, 68), (4, 128)], (1, 0): [(64, 68), (124, 68)]}
    for (picture, _), places in corners.items():
        for crop, (top, left) in zip(document.crops[picture], places, strict=True):
            assert (sheet[top : top + 56, left : left + 56] == crop.transpose(1, 2, 0)).all()
    assert (sheet[60:64] == 128).all() and (sheet[:, :4] == 128).all() and (sheet[:, 124:128][:60] == 128).all()


def test_the_view_is_the_one_that_the_vision_tower_reads(tiny: DocumentProcessor):
    document = tiny.document(sample((90, 90)))
    finished = finish_crops(torch.from_numpy(document.crops[0]), document.grids, torch.float32)[0]
    white = finish_crops(torch.full((1, 3, 56, 56), 255, dtype=torch.uint8), [(1, 1)], torch.float32)[0]
    black = finish_crops(torch.zeros((1, 3, 56, 56), dtype=torch.uint8), [(1, 1)], torch.float32)[0]
    values = ((finished - black) / (white - black) * 255).clamp(0, 255)
    shown = torch.from_numpy(np.array(crops_picture(document))[4:60, 4:60]).permute(2, 0, 1)
    torch.testing.assert_close(shown.float(), values, rtol=0, atol=0.51)


def test_a_document_without_pictures_gives_an_empty_sheet(tiny: DocumentProcessor):
    assert np.unique(np.asarray(crops_picture(tiny.prompt([])))).tolist() == [128]


def test_shown_sample_is_the_one_of_the_shards(small_demo, tmp_path: Path):
    index = load_index(small_demo.folder / "shards")
    shown = load_shown(small_demo.folder / "shards", small_demo.folder / "base", 5, DocumentOptions(num_crops=1))
    assert shown.summary().startswith(f"sample 5, product {index.row(5)['product_code']}: {len(shown.document.labels)}")
    assert "pictures: 1 × 1 crops" in shown.summary()
    assert index.row(5)["title"] in shown.processor.decode(shown.document.input_ids)
    shown.write_crops(tmp_path / "new/five.png")
    assert Image.open(tmp_path / "new/five.png").size == (4 + 2 * 60 + 4, 64)
    with pytest.raises(DocumentError, match="can't be written"):
        shown.write_crops(tmp_path / "new/five.png/below")


@pytest.mark.parametrize("number", [-1, 240])
def test_a_number_that_no_sample_has_is_one_line(small_demo, number: int):
    with pytest.raises(ShardError, match=rf"no such sample \(found {number}\). The folder holds samples 0 to "):
        load_shown(small_demo.folder / "shards", small_demo.folder / "base", number, DocumentOptions())


def test_a_damaged_sample_is_one_line(small_demo, tmp_path: Path):
    shutil.copytree(small_demo.folder / "shards", tmp_path / "shards")
    row = load_index(tmp_path / "shards").row(0)
    with open(tmp_path / "shards" / row["shard"], "r+b") as tar:
        tar.seek(row["image_offset"][0] + 20)
        tar.write(b"damage")
    with pytest.raises(ShardError, match="sample 0 is damaged"):
        load_shown(tmp_path / "shards", small_demo.folder / "base", 0, DocumentOptions())


def test_the_tool_prints_plain_text_without_a_terminal(small_demo, tmp_path: Path):
    folders = ("--shards", small_demo.folder / "shards", "--model", small_demo.folder / "base")
    done = run_tool("tools/show_document.py", *folders, "--sample", 2, "--crops", tmp_path / "two.png")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout.count("«") == 2  # the tokens, and the legend
    assert (tmp_path / "two.png").is_file()
    recipe = (
        "--config",
        "launch/recipes/demo_cpu.yaml",
        *small_demo.recipe(tmp_path)[2:5],
        "documents.template=official",
    )
    other = run_tool("tools/show_document.py", *recipe, "--sample", 2)
    assert "<|end|> ▁ <0x0A> <|assistant|> «" in other.stdout, other.stderr
