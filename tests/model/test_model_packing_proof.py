"""Packing changes nothing: the gradient of a pack is the sum of its documents' own, parameter by parameter (float32).

The pack: text alone, one picture, two pictures of unlike grids, and a text over 4,096 tokens (long RoPE factors, the
others short ones), pictures of the model's true 336 px. Once all activations are kept, once computed again in backward.
"""

import pytest
import torch
from formula import MANIFEST, golden_model, golden_values, pack_of

from phi3v_dist.model import vision

CASES = ["text_short", "one_1x2", "text_4100", "two_images"]


@pytest.fixture(scope="module")
def documents():
    values = golden_values()
    return [pack_of(case, values) for case in CASES]


@pytest.fixture(scope="module")
def model():
    model = golden_model()
    model.freeze(train_vision=True)
    return model


@pytest.fixture(scope="module")
def one_by_one(model, documents):
    return gradients_of(model, documents)


def gradients_of(model, packs):
    """Summed loss, and every trained parameter's gradient summed over ``packs``."""
    model.zero_grad()
    losses = [model(**pack) for pack in packs]
    for loss in losses:
        loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    return float(sum(loss.item() for loss in losses)), gradients


def packed(documents):
    pixels = [document["pixels"] for document in documents if document["pixels"] is not None]
    lengths = torch.tensor([len(document["input_ids"]) for document in documents])
    starts = lengths.cumsum(0) - lengths
    return {
        "input_ids": torch.cat([document["input_ids"] for document in documents]),
        "positions": torch.cat([document["positions"] for document in documents]),
        "cu_seqlens": torch.tensor([0, *lengths.cumsum(0)], dtype=torch.int32),
        "pixels": torch.cat(pixels) if pixels else None,
        "grids": [grid for document in documents for grid in document["grids"]],
        "supervised": torch.cat([d["supervised"] + start for d, start in zip(documents, starts, strict=True)]),
        "targets": torch.cat([document["targets"] for document in documents]),
    }


def test_the_pack_holds_what_it_should(documents):
    assert [len(document["grids"]) for document in documents] == [0, 1, 0, 2]
    lengths = [len(document["input_ids"]) for document in documents]
    assert sum(length > 4096 for length in lengths) == 1
    assert len(set(documents[3]["grids"])) == 2


@pytest.mark.parametrize("recompute", [False, True], ids=["activations kept", "activation checkpointing"])
def test_gradient_of_a_pack_is_the_sum_of_its_documents_own(model, documents, one_by_one, recompute, monkeypatch):
    monkeypatch.setattr(vision, "_CROPS_RECOMPUTED_TOGETHER", 3)  # several units, also across pictures
    model.recompute_activations(recompute)
    loss, gradients = gradients_of(model, [packed(documents)])
    model.recompute_activations(False)
    assert loss == pytest.approx(one_by_one[0], rel=1e-6)
    assert len(gradients) == len(MANIFEST["parameters"]) - len(MANIFEST["no_gradient"]["picture cases"])
    for name, expected in one_by_one[1].items():
        # keys' biases shift all scores of a query alike: their gradient is rounding noise around zero
        bound = 1e-6 if name.endswith("k_proj.bias") else 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(gradients[name], expected, atol=bound, rtol=0, msg=name)


def test_the_bounds_see_a_border_that_is_off_by_one_token(model, documents):
    weights = dict(model.model.layers.named_parameters())
    pack = packed([documents[0], documents[0]])
    expected = torch.autograd.grad(2 * model(**documents[0]), weights.values())
    for moved, too_large in ((0, 0), (1, len(weights))):
        pack["cu_seqlens"][1] += moved
        found = torch.autograd.grad(model(**pack), weights.values())
        off = [(x - y).abs().max() > 1e-5 * y.abs().max() for x, y in zip(found, expected, strict=True)]
        assert sum(off) == too_large
