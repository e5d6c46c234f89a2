"""Against what the official code computes (tests/golden/README.md), float32, with the bounds given there.

The bounds: 5e-5 for features, embeddings, hidden states, logits and single losses; 1e-5 for the mean loss; of gradients
5e-5 of a norm and 1e-4 of a parameter's largest entry; of AdamW 1e-4 for losses and 5e-6 of a norm.
"""

from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch
from formula import MANIFEST, golden_model, golden_values, pack_of, parameters_by_row

CASES = [
    *(("phi3v", case) for case in MANIFEST["phi3v"]["cases"]),
    *(("phi35v", case) for case in MANIFEST["phi35v"]["cases"]),
]
PICTURES = ["one_1x2", "one_2x1", "two_images"]


def close(found, expected, *, atol=5e-5, rtol=0.0, msg=None):
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol, msg=msg)


@lru_cache(maxsize=2)
def model_of(version):
    return golden_model(version)


@pytest.fixture
def model():
    return model_of("phi3v")


@pytest.fixture(scope="module")
def values():
    return golden_values()


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def computed(request, values):
    """What our model makes of a golden case: one forward, one backward."""
    version, case = request.param
    model, pack = model_of(version), pack_of(case, values)
    with torch.no_grad():
        hidden = model.hidden_states(**{k: v for k, v in pack.items() if k not in ("supervised", "targets")})
        logits = model.lm_head(hidden)
    model.zero_grad()
    loss = model(**pack) / len(pack["targets"])
    loss.backward()
    gradients = [parameter.grad for parameter in parameters_by_row(model).values()]
    model.zero_grad()
    official = {key.removeprefix(f"{case}."): value for key, value in golden_values(version).items()}
    return SimpleNamespace(official=official, pack=pack, hidden=hidden, logits=logits, loss=loss, gradients=gradients)


def test_hidden_states_and_logits_equal_official_code(computed):
    official = computed.official
    close(computed.hidden[official["hidden_rows"].long(), ::5], official["hidden_last"])
    close(computed.hidden.mean(1), official["hidden_last_mean"])
    close(computed.logits[official["logits_rows"].long(), ::3], official["logits"])


def test_losses_equal_official_code(computed):
    scored, targets = computed.logits[computed.pack["supervised"]], computed.pack["targets"]
    close(torch.nn.functional.cross_entropy(scored, targets, reduction="none"), computed.official["token_losses"])
    close(computed.loss, computed.official["loss"].reshape(()), atol=1e-5)


def test_gradients_equal_official_code(computed):
    official = computed.official
    assert len(computed.gradients) == len(official["grad_norm"]) == 76
    for row, (key, gradient) in enumerate(zip(MANIFEST["parameters"], computed.gradients, strict=True)):
        norm, entries = official["grad_norm"][row], official["grad_value"][row]
        if norm < 0 or ("vision_model" in key[0] and key[0].endswith("k_proj.bias")):
            assert gradient is None or gradient.abs().max() < 1e-6, key
            continue
        close(gradient.norm(), norm, rtol=5e-5, atol=0.0, msg=key[0])
        found = gradient.flatten()[official["grad_index"][row].long()]
        close(found, entries, atol=1e-4 * float(entries.abs().max()), msg=key[0])


def test_padding_row_of_the_embedding_has_no_gradient_though_its_token_is_read(computed):
    gradient = computed.gradients[[name for name, _ in MANIFEST["parameters"]].index("model.embed_tokens.weight")]
    assert not gradient[MANIFEST["padding_token"]].any()


@pytest.mark.parametrize("case", PICTURES)
def test_clip_features_and_image_embeddings_equal_official_code(model, values, case):
    pack = pack_of(case, values)
    with torch.no_grad():
        vision = model.model.vision_embed_tokens
        features = vision.img_processor(pack["pixels"])
        embeddings = vision(pack["pixels"], pack["grids"])
    close(features[:, ::37, ::61], values[f"{case}.clip_features"])
    close(features.mean(2), values[f"{case}.clip_features_mean"])
    close(embeddings[::7, ::5], values[f"{case}.image_embeddings"])
    close(embeddings.mean(1), values[f"{case}.image_embeddings_mean"])


@pytest.mark.parametrize("version", ["phi3v", "phi35v"])
def test_three_adamw_steps_equal_official_code(values, version):
    official, pack = golden_values(version), pack_of("one_1x2", values)
    model = golden_model(version)  # its own: it changes
    by_row = parameters_by_row(model)
    optimizer = torch.optim.AdamW(by_row.values(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    # Adam turns the noise in these gradients into whole steps (tests/golden/README.md)
    rows = [row for row, key in enumerate(by_row) if not ("vision_model" in key and key.endswith("k_proj.bias"))]
    largest = official["one_1x2.grad_index"][:, 0].long()
    losses = []
    for step in range(3):
        loss = model(**pack) / len(pack["targets"])
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad.norm() for p in by_row.values() if p.grad is not None]
        close(torch.stack(gradients).norm(), official["adamw.gradient_norm"][step], rtol=5e-5, atol=0.0)
        optimizer.step()
        with torch.no_grad():
            norms = torch.stack([p.double().norm() for p in by_row.values()]).float()  # float32 sums lose digits
            entries = torch.stack([p.flatten()[i] for p, i in zip(by_row.values(), largest, strict=True)])
        close(norms[rows], official["adamw.parameter_norms"][step, rows], rtol=5e-6, atol=0.0)
        close(entries[rows], official["adamw.value_at_largest_gradient"][step, rows])
    with torch.no_grad():
        losses.append(model(**pack) / len(pack["targets"]))
    close(torch.stack(losses), official["adamw.losses"], atol=1e-4)


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
