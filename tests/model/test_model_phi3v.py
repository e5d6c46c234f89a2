"""Against what the official code computes (tests/golden/README.md), float32."""

import pytest
import torch
from formula import MANIFEST, golden_model, golden_values, pack_of

CASES = ["one_1x2", "one_2x1", "two_images", "text_short", "text_4096", "text_4097"]


@pytest.fixture(scope="module")
def model():
    return golden_model()


@pytest.fixture(scope="module")
def values():
    return golden_values()


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_logits_and_loss_equal_official_code(model, values, case):
    pack = pack_of(case, values)
    supervised, targets = pack.pop("supervised"), pack.pop("targets")
    with torch.no_grad():
        hidden = model.hidden_states(**pack)
        logits = model.lm_head(hidden)
        loss = model(**pack, supervised=supervised, targets=targets) / len(targets)
    rows = values[f"{case}.hidden_rows"].long()
    torch.testing.assert_close(hidden[rows, ::5], values[f"{case}.hidden_last"], atol=5e-5, rtol=0)
    rows = values[f"{case}.logits_rows"].long()
    torch.testing.assert_close(logits[rows, ::3], values[f"{case}.logits"], atol=5e-5, rtol=0)
    torch.testing.assert_close(loss, values[f"{case}.loss"].reshape(()), atol=1e-5, rtol=0)


def test_image_embeddings_equal_official_code(model, values):
    pack = pack_of("two_images", values)
    with torch.no_grad():
        vision = model.model.vision_embed_tokens
        features = vision.img_processor(pack["pixels"])
        embeddings = vision(pack["pixels"], pack["grids"])
    torch.testing.assert_close(features[:, ::37, ::61], values["two_images.clip_features"], atol=5e-5, rtol=0)
    torch.testing.assert_close(embeddings[::7, ::5], values["two_images.image_embeddings"], atol=5e-5, rtol=0)
    torch.testing.assert_close(embeddings.mean(1), values["two_images.image_embeddings_mean"], atol=5e-5, rtol=0)


@pytest.mark.parametrize("case", ["one_1x2", "text_short"])
def test_gradients_equal_official_code(model, values, case):
    pack = pack_of(case, values)
    model.zero_grad()
    (model(**pack) / len(pack["targets"])).backward()
    parameters = dict(model.named_parameters())
    for row, entry in enumerate(MANIFEST["parameters"]):
        key = entry["name"] if isinstance(entry, dict) else entry[0]
        norm = values[f"{case}.grad_norm"][row]
        gradient = parameters[key].grad
        if norm < 0 or key.endswith("k_proj.bias"):
            assert gradient is None or gradient.abs().max() < 1e-6, key
            continue
        torch.testing.assert_close(gradient.norm(), norm, rtol=1e-4, atol=1e-9, msg=key)
        index = values[f"{case}.grad_index"][row].long()
        bound = 1e-4 * float(values[f"{case}.grad_value"][row].abs().max())
        torch.testing.assert_close(
            gradient.flatten()[index], values[f"{case}.grad_value"][row], atol=bound, rtol=0, msg=key
        )


def test_pack_of_documents_equals_each_document_alone(model, values):
    cases = ["one_1x2", "text_short", "one_2x1"]
    packs = [pack_of(case, values) for case in cases]
    lengths = torch.tensor([len(p["input_ids"]) for p in packs])
    starts = lengths.cumsum(0) - lengths
    joined = {
        "input_ids": torch.cat([p["input_ids"] for p in packs]),
        "positions": torch.cat([p["positions"] for p in packs]),
        "cu_seqlens": torch.tensor([0, *lengths.cumsum(0)], dtype=torch.int32),
        "pixels": torch.cat([p["pixels"] for p in packs if p["pixels"] is not None]),
        "grids": [grid for p in packs for grid in p["grids"]],
        "supervised": torch.cat([p["supervised"] + start for p, start in zip(packs, starts, strict=True)]),
        "targets": torch.cat([p["targets"] for p in packs]),
    }
    model.zero_grad()
    alone = 0.0
    for pack in packs:
        loss = model(**pack)
        loss.backward()
        alone += loss.item()
    expected = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = model(**joined)
    loss.backward()
    assert loss.item() == pytest.approx(alone, rel=1e-6)
    for key, parameter in model.named_parameters():
        if key in expected:
            # keys' biases shift all scores of a query alike: their gradient is rounding noise around zero
            noise = key.endswith("k_proj.bias")
            bound = 1e-6 if noise else 1e-5 * float(expected[key].abs().max())
            torch.testing.assert_close(parameter.grad, expected[key], atol=bound, rtol=0, msg=key)


def test_long_document_does_not_change_a_short_neighbour(model, values):
    short, long = pack_of("text_short", values), pack_of("text_4097", values)
    lengths = [len(long["input_ids"]), len(short["input_ids"])]
    with torch.no_grad():
        together = model.hidden_states(
            input_ids=torch.cat((long["input_ids"], short["input_ids"])),
            positions=torch.cat((long["positions"], short["positions"])),
            cu_seqlens=torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32),
        )
        alone = model.hidden_states(**{k: short[k] for k in ("input_ids", "positions", "cu_seqlens")})
    torch.testing.assert_close(together[lengths[0] :], alone, atol=5e-5, rtol=0)


def test_text_only_pack_gives_every_trained_parameter_a_gradient(model, values):
    model.zero_grad()
    model.freeze(train_vision=True)
    model(**pack_of("text_short", values)).backward()
    missing = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    frozen = [key for key, p in model.named_parameters() if not p.requires_grad]
    assert set(frozen) == set(MANIFEST["no_gradient"]["picture cases"])
    model.requires_grad_(True)


def test_pack_without_supervised_token_has_zero_loss_and_zero_gradient(model, values):
    pack = pack_of("text_short", values)
    pack["supervised"] = pack["targets"] = torch.zeros(0, dtype=torch.long)
    model.zero_grad()
    loss = model(**pack)
    loss.backward()
    assert loss.item() == 0
    assert float(model.lm_head.weight.grad.abs().max()) == 0
