"""The processors in transformers' manner against what the official ones gave, and against the documents of training."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference_crops import drawn_picture, official_grid, official_pixels
from transformers import AutoImageProcessor, AutoProcessor

import phi3v_dist
from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.documents import Phi3VImageProcessor, Phi3VProcessor
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.documents.prompt import QUESTION
from phi3v_dist.errors import DocumentError
from phi3v_dist.shards.read import Sample

MODELS = ["phi3v", "phi35v"]
QUESTION_PROMPT = "<|user|>\n<|image_1|>\nWhat is shown in this image?<|end|>\n<|assistant|>\n"
TWO_PICTURES_PROMPT = "<|user|>\n<|image_1|>\n<|image_2|>\nCompare.<|end|>\n<|assistant|>\n"
SAMPLED = [(0, 0, 0), (1, 100, 200), (2, 335, 335), (0, 17, 250)]


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Phi3VProcessor:
    return Phi3VProcessor.from_pretrained(tiny_folder)


@pytest.fixture(scope="session", params=MODELS)
def official(request: pytest.FixtureRequest, official_folder: Path) -> tuple[dict, Phi3VProcessor]:
    """Golden values of one model and our processor of its folder."""
    folder = os.environ.get("PHI3V_GOLDEN")
    if folder is None:
        pytest.skip("PHI3V_GOLDEN names no folder of goldens")
    golden = json.loads(Path(folder, f"processor_{request.param}.json").read_text())
    return golden, Phi3VProcessor.from_pretrained(official_folder.parent / request.param)


def runs(ids: list[int]) -> list:
    """Ids with each run of a picture's places drawn together, as the golden files write them."""
    found: list = []
    for token in ids:
        if token >= 0:
            found.append(token)
        elif found and isinstance(found[-1], dict) and found[-1]["id"] == token:
            found[-1]["n"] += 1
        else:
            found.append({"id": token, "n": 1})
    return found


def test_every_golden_picture_gives_the_official_inputs(official: tuple[dict, Phi3VProcessor]):
    golden, processor = official
    for case in golden["cases"]:
        inputs = processor(QUESTION_PROMPT, drawn_picture(*case["wh"]), return_tensors="pt")
        pixels = inputs["pixel_values"]
        assert list(pixels.shape) == case["pv_shape"] and str(pixels.dtype) == case["dtype"]
        assert inputs["image_sizes"].tolist() == case["image_sizes"]
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape and inputs["attention_mask"].all()
        assert runs(inputs["input_ids"][0].tolist()) == [
            *case["prefix"],
            {"id": -1, "n": case["n_img_tokens"]},
            *case["suffix"],
        ]
        assert processor.calc_num_image_tokens_from_image_size(*case["wh"]) == case["calc"]
        assert pixels.double().sum().item() == pytest.approx(case["total_sum"], rel=1e-7, abs=1e-2)
        assert [pixels[(0, 0, *place)].item() for place in SAMPLED] == pytest.approx(case["g_samples"], abs=1e-6)
        assert [pixels[(0, 1, *place)].item() for place in SAMPLED] == pytest.approx(case["c1_samples"], abs=2e-7)


def test_two_pictures_give_the_official_inputs(official: tuple[dict, Phi3VProcessor]):
    golden, processor = official
    inputs = processor(TWO_PICTURES_PROMPT, [drawn_picture(640, 480), drawn_picture(300, 500)], return_tensors="pt")
    assert runs(inputs["input_ids"][0].tolist()) == golden["multi"]["runs"]
    assert list(inputs["pixel_values"].shape) == golden["multi"]["pv"]
    assert inputs["image_sizes"].tolist() == golden["multi"]["sizes"]
    assert inputs["attention_mask"].min().item() == golden["multi"]["attn_min"]


def test_text_alone_and_picture_first_give_the_official_ids(official: tuple[dict, Phi3VProcessor]):
    golden, processor = official
    alone = processor("<|user|>\nHello<|end|>\n<|assistant|>\n", return_tensors="pt")
    assert {name: values.tolist() for name, values in alone.items()} == golden["text_only"]
    first = processor("<|image_1|>\nhi", drawn_picture(50, 50))["input_ids"][0].tolist()
    places = {"id": -1, "n": processor.calc_num_image_tokens_from_image_size(50, 50)}
    assert runs(first) == [*golden["image_first"]["prefix"], places, *golden["image_first"]["suffix"]]


def test_canonical_ids_of_a_chat(official: tuple[dict, Phi3VProcessor]):
    _, processor = official
    turns = [{"role": "user", "content": "<|image_1|>\nWhat is shown in this image?"}]
    assert processor.apply_chat_template(turns, add_generation_prompt=True) == QUESTION_PROMPT
    answer = processor.tokenizer("A1<|end|>\n<|endoftext|>", add_special_tokens=False).input_ids
    assert answer == [319, 29896, 32007, 29871, 13, 32000]
    assert processor.batch_decode([answer], skip_special_tokens=True) == ["A1 \n"]


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 16))
@settings(max_examples=50)
def test_padded_pixels_equal_the_official_algorithm(width: int, height: int, num_crops: int):
    if official_grid(width, height, num_crops, 56)[2] == 0:
        return
    picture = drawn_picture(width, height)
    truth, size, tokens = official_pixels(picture, num_crops, 56)
    seen = Phi3VImageProcessor(num_crops, crop_size=56)(picture, return_tensors="pt")
    assert seen["pixel_values"].shape == (1, *truth.shape)
    torch.testing.assert_close(seen["pixel_values"][0], truth, rtol=0, atol=1e-6)
    assert (seen["image_sizes"].tolist(), seen["num_img_tokens"].tolist()) == ([size], [tokens])


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_pictures_that_the_official_processor_fails_on_work(tiny: Phi3VProcessor, size: tuple[int, int]):
    inputs = tiny("<|image_1|>", Image.new("RGB", size))
    count = tiny.calc_num_image_tokens_from_image_size(*size)
    assert (inputs["input_ids"] == -1).sum() == count
    assert inputs["pixel_values"].isfinite().all()


@pytest.mark.parametrize("template", ["mission", "official"])
@pytest.mark.parametrize("pictures", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("folder", ["tiny_folder", "official_folder"])
def test_documents_of_training_have_the_processors_ids(
    request: pytest.FixtureRequest, folder: str, pictures: int, template: str
):
    """k tags in a row: what training builds from pieces is what the tagged text gives; then the answer and its end."""
    path = request.getfixturevalue(folder)
    documents = DocumentProcessor.from_folder(path, DocumentOptions(template=template, num_crops=2))
    images = [drawn_picture(20 + 30 * number, 60) for number in range(pictures)]
    tags = "".join(f"<|image_{number}|>" for number in range(1, pictures + 1))
    ending = "<|end|><|assistant|>\n" if template == "mission" else "<|end|>\n<|assistant|>\n"
    prompt = Phi3VProcessor.from_pretrained(path, num_crops=2)(f"<|user|>\n{tags}{QUESTION}{ending}", images or None)
    encoded = tuple(_png(image) for image in images)
    document = documents.document(Sample(0, "k", "c", "Red <|end|> Bag", "Bags", 19.9, "USD", encoded))
    learned = document.labels != -100
    assert document.input_ids[~learned].tolist() == prompt["input_ids"][0].tolist()
    assert (
        document.labels[learned].tolist()
        == documents.template.answer_ids("Product: Red <|end|> Bag, Category: Bags, Full Price: 19.9").tolist()
    )
    assert not learned[: learned.argmax()].any() and learned[learned.argmax() :].all()
    assert (document.input_ids == documents.template.end_id).sum() == 2
    for number, (crops, grid) in enumerate(zip(document.crops, document.grids, strict=True)):
        assert prompt["image_sizes"][number].tolist() == [side * documents.crop_size for side in grid]
        assert len(crops) == grid[0] * grid[1]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_its_texts_padded(tiny_folder: Path, side: str):
    processor = Phi3VProcessor.from_pretrained(tiny_folder)
    processor.tokenizer.padding_side = side
    texts = ["<|image_1|><|image_2|>two", "none at all, but many words", "<|image_1|>"]
    images = [drawn_picture(30, 40), drawn_picture(90, 10), drawn_picture(10, 90)]
    batch = processor(texts, images)
    nested = processor(texts, [images[:2], [], images[2:]])
    assert all(torch.equal(batch[name], nested[name]) for name in batch)
    singles = [processor(texts[0], images[:2]), processor(texts[1]), processor(texts[2], images[2])]
    for row, mask, single in zip(batch["input_ids"], batch["attention_mask"], singles, strict=True):
        assert torch.equal(row[mask.bool()], single["input_ids"][0])
        assert (row[~mask.bool()] == processor.tokenizer.pad_token_id).all()
    assert batch["attention_mask"][:, -1 if side == "left" else 0].all()
    assert torch.equal(batch["pixel_values"], torch.cat([singles[0]["pixel_values"], singles[2]["pixel_values"]]))


def test_numpy_and_plain_lists_on_request(tiny: Phi3VProcessor):
    arrays = tiny("<|image_1|>x", Image.new("RGB", (9, 9)), return_tensors="np")
    assert {name: values.dtype for name, values in arrays.items()} == {
        "input_ids": np.int64, "attention_mask": np.int64, "pixel_values": np.float32, "image_sizes": np.int64
    }  # fmt: skip
    assert tiny(["x", "x y"], padding=False, return_tensors=None)["input_ids"] == [
        tiny.tokenizer("x").input_ids,
        tiny.tokenizer("x y").input_ids,
    ]


@pytest.mark.parametrize(
    ("text", "pictures", "found"),
    [("<|image_2|><|image_1|>", 2, r"found \[2, 1\]"), ("<|image_1|><|image_1|>", 1, r"found \[1, 1\]"),
     ("<|image_1|>", 2, r"found \[2\]"), ("<|image_1|>", 0, r"found \[0\]"), ("no tag", 1, r"found \[1\]")],
)  # fmt: skip
def test_tags_that_the_model_would_misread_are_refused(tiny: Phi3VProcessor, text: str, pictures: int, found: str):
    with pytest.raises(DocumentError, match=found):
        tiny(text, [Image.new("RGB", (9, 9))] * pictures)


def test_what_is_no_picture_is_one_line(tiny: Phi3VProcessor):
    with pytest.raises(DocumentError, match="picture 1: is no PIL picture"):
        tiny("<|image_1|>", ["bag.jpg"])
    with pytest.raises(DocumentError, match="can't become RGB"):
        tiny("<|image_1|>", Image.new("F", (4, 4)))


def test_transparent_pixels_become_white(tiny: Phi3VProcessor):
    clear = tiny("<|image_1|>", Image.new("RGBA", (8, 8), (200, 0, 0, 0)))["pixel_values"]
    assert torch.equal(clear, tiny("<|image_1|>", Image.new("RGB", (8, 8), "white"))["pixel_values"])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("num_crops", [None, 9])
def test_saved_files_are_the_original_ones(official_folder: Path, tmp_path: Path, model: str, num_crops: int | None):
    source = official_folder.parent / model
    Phi3VProcessor.from_pretrained(source, num_crops=num_crops).save_pretrained(tmp_path)
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == names | ({"processor_config.json"} & set(os.listdir(source)))
    for path in tmp_path.iterdir():
        if num_crops is None or path.name != "preprocessor_config.json":
            assert path.read_bytes() == (source / path.name).read_bytes()
    told, original = (json.loads((folder / "preprocessor_config.json").read_text()) for folder in (tmp_path, source))
    assert told == original | ({"num_crops": num_crops} if num_crops else {})
    assert Phi3VProcessor.from_pretrained(tmp_path).image_processor.num_crops == told["num_crops"]


def test_code_that_the_settings_name_is_copied_along(tiny_folder: Path, tmp_path: Path):
    for path in tiny_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "processing_phi3_v.py").write_text("# theirs\n")
    (tmp_path / "model.safetensors").write_text("weights are no business of a processor")
    written = Phi3VProcessor.from_pretrained(tmp_path).save_pretrained(tmp_path / "copy")
    assert {Path(path).name for path in written} == {
        "tokenizer.json", "preprocessor_config.json", "processing_phi3_v.py"
    }  # fmt: skip
    assert (tmp_path / "copy/processing_phi3_v.py").read_text() == "# theirs\n"


def test_image_processor_alone_saves_and_loads(tiny_folder: Path, tmp_path: Path):
    Phi3VImageProcessor.from_pretrained(tiny_folder, num_crops=3).save_pretrained(tmp_path / "read")
    Phi3VImageProcessor(3, crop_size=56).save_pretrained(tmp_path / "made")
    for name in ("read", "made"):
        again = Phi3VImageProcessor.from_pretrained(tmp_path / name)
        assert (again.num_crops, again.crop_size) == (3, 56)
    assert "_source" not in json.loads((tmp_path / "made/preprocessor_config.json").read_text())


def test_settings_of_another_vision_tower_are_refused():
    with pytest.raises(DocumentError, match="image_mean is not CLIP's"):
        Phi3VImageProcessor(4, image_mean=[0.5, 0.5, 0.5])


def test_a_missing_folder_is_one_line(tmp_path: Path):
    for read in (Phi3VProcessor.from_pretrained, Phi3VImageProcessor.from_pretrained):
        with pytest.raises(DocumentError, match="nowhere") as caught:
            read(tmp_path / "nowhere")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", MODELS)
def test_auto_classes_give_ours_without_remote_code(official_folder: Path, model: str):
    """The official settings name remote code in ``auto_map``; nothing of it is asked for."""
    phi3v_dist.register()
    phi3v_dist.register()
    folder = official_folder.parent / model
    processor = AutoProcessor.from_pretrained(folder, num_crops=5)
    assert isinstance(processor, Phi3VProcessor) and processor.image_processor.num_crops == 5
    assert isinstance(AutoImageProcessor.from_pretrained(folder), Phi3VImageProcessor)


def test_auto_classes_read_the_demo_folder(small_demo):
    phi3v_dist.register()
    processor = AutoProcessor.from_pretrained(small_demo.folder / "base")
    assert isinstance(processor, Phi3VProcessor)
    assert isinstance(AutoImageProcessor.from_pretrained(small_demo.folder / "base"), Phi3VImageProcessor)
    inputs = processor("<|user|>\n<|image_1|>Hi<|end|><|assistant|>\n", drawn_picture(80, 60))
    assert inputs["pixel_values"].shape == (1, 5, 3, 56, 56)
