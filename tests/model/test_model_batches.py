"""Called as transformers' users call it: the golden cases, padded and together, give the official logits and loss."""

import pytest
import torch
import torch.nn.functional as F
from formula import MANIFEST, golden_model, golden_values, pixels_of
from transformers import AutoModelForCausalLM, AutoProcessor

import phi3v_dist
from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.images import open_image
from phi3v_dist.packing.collate import collate
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.training.step import forward

CASES = ["one_1x2", "text_short", "one_2x1"]


@pytest.fixture(scope="module")
def model():
    return golden_model()


@pytest.fixture(scope="module")
def values():
    return golden_values()


def batch_of(cases, values, side):
    """Ids, mask and labels padded on ``side``; pixel values with one padding crop more than the largest picture."""
    sequences = [values[f"{case}.input_ids"].long() for case in cases]
    longest = max(map(len, sequences))

    def padded(sequence, value):
        room = longest - len(sequence)
        return F.pad(sequence, (room, 0) if side == "left" else (0, room), value=value)

    grids = [tuple(grid) for case in cases for grid in MANIFEST["phi3v"]["cases"][case].get("grids", [])]
    pictures = [pixels_of(case, [grid]) for case in cases for grid in MANIFEST["phi3v"]["cases"][case].get("grids", [])]
    return {
        "input_ids": torch.stack([padded(ids, 500) for ids in sequences]),
        "attention_mask": torch.stack([padded(torch.ones_like(ids), 0) for ids in sequences]),
        "labels": torch.stack([padded(values[f"{case}.labels"].long(), -100) for case in cases]),
        "pixel_values": torch.stack([F.pad(p, (0, 0, 0, 0, 0, 0, 0, 4 - len(p))) for p in pictures]),
        "image_sizes": torch.tensor(grids) * 336,
    }


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_has_the_official_logits_of_each_sequence(model, values, side):
    batch = batch_of(CASES, values, side)
    with torch.no_grad():
        logits = model(**batch).logits
    for case, mask, found in zip(CASES, batch["attention_mask"], logits, strict=True):
        rows = values[f"{case}.logits_rows"].long()
        torch.testing.assert_close(found[mask.bool()][rows, ::3], values[f"{case}.logits"], atol=5e-5, rtol=0)
        assert not found[~mask.bool()].any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_generates_the_official_tokens_of_each_prompt(model, values, side):
    cases = ["one_1x2", "text_short"]
    cut = {f"{case}.{name}": values[f"{case}.{name}"] for case in cases for name in ("input_ids", "labels")}
    for case in cases:  # the prompt ends where supervision begins
        end = int((values[f"{case}.labels"] != -100).nonzero()[0])
        cut |= {key: value[:end] for key, value in cut.items() if key.startswith(case)}
    batch = batch_of(cases, cut, side)
    del batch["labels"]
    found = model.generate(**batch, max_new_tokens=16, eos_token_id=())
    assert torch.equal(found[:, :-16], batch["input_ids"])
    assert [row.tolist() for row in found[:, -16:]] == [values[f"generate.{case}.tokens"].tolist() for case in cases]


def test_loss_of_one_sequence_is_the_official_mean(model, values):
    with torch.no_grad():
        found = model(**batch_of(["one_1x2"], values, "right"))
    torch.testing.assert_close(found.loss, values["one_1x2.loss"].reshape(()), atol=1e-5, rtol=0)


def test_auto_classes_together_give_the_loss_that_training_sees(small_demo):
    phi3v_dist.register()
    base = small_demo.folder / "base"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(base)
    sample = ShardReader(load_index(small_demo.folder / "shards")).sample(0)
    document = DocumentProcessor.from_folder(base, DocumentOptions()).document(sample)
    question = "<|user|>\n<|image_1|>What is shown in this image?<|end|><|assistant|>\n"
    inputs = processor(question, [open_image(sample.images[0])])
    prompt_tokens = inputs["input_ids"].shape[1]
    assert inputs["input_ids"][0].tolist() == document.input_ids[:prompt_tokens].tolist()
    inputs["input_ids"] = torch.from_numpy(document.input_ids)[None]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        found = model(**inputs, labels=torch.from_numpy(document.labels)[None]).loss
        expected = forward(model, collate([document]), torch.float32) / int((document.labels != -100).sum())
    torch.testing.assert_close(found, expected)
