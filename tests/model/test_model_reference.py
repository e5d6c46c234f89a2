"""The older goldens, a folder with random bf16 weights: read by both of our loaders, then held to the official values.

Its vision tower has 3 layers of MLP 256, for which the official ``config.json`` has no words; ours are
``img_processor.vision_config``. Bounds as in test_model_phi3v.py.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phi3v_dist.model import Phi3VForCausalLM
from phi3v_dist.model.folder import check_names, iterate_weights, read_config, shapes_in


@pytest.fixture(scope="module")
def reference() -> Path:
    folder = os.environ.get("PHI3V_GOLDEN")
    if folder is None:
        pytest.skip("PHI3V_GOLDEN names no folder of goldens")
    return Path(folder) / "phi3v_reference_tiny"


@pytest.fixture(scope="module")
def official(reference: Path) -> dict[str, torch.Tensor]:
    return load_file(reference / "golden.safetensors")


@pytest.fixture(scope="module")
def folder(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("reference")
    config = json.loads((reference / "config.json").read_text())
    config["img_processor"]["vision_config"] = {"num_hidden_layers": 3, "intermediate_size": 256}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").symlink_to(reference / "model.safetensors")
    return copy


def by_transformers(folder: Path) -> Phi3VForCausalLM:
    model, told = Phi3VForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(told.values()), told
    return model


def tensor_by_tensor(folder: Path) -> Phi3VForCausalLM:
    model = Phi3VForCausalLM(read_config(folder)).float()
    parameters = dict(model.named_parameters())
    check_names({name: tuple(p.shape) for name, p in parameters.items()}, shapes_in(folder), folder)
    with torch.no_grad():
        for name, tensor in iterate_weights(folder):
            parameters[name].copy_(tensor)
    return model.eval()


@pytest.fixture(scope="module", params=[by_transformers, tensor_by_tensor])
def model(request: pytest.FixtureRequest, folder: Path) -> Phi3VForCausalLM:
    return request.param(folder)


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 5e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize(("case", "grid"), [("a", (1, 2)), ("b", (2, 1))])
@torch.no_grad()
def test_picture_cases_equal_official_code(
    model: Phi3VForCausalLM, official: dict[str, torch.Tensor], case: str, grid: tuple[int, int]
) -> None:
    own = {key.removeprefix(f"{case}."): value for key, value in official.items()}
    pixels = own["pixel_values_int8"][0, :3].float() / 50  # the fourth is the official batch's padding
    vision = model.model.vision_embed_tokens
    close(vision.img_processor(pixels)[:, ::16], own["clip_features_every_16th"][0, :3])
    close(vision(pixels, [grid]), own["image_embeddings"])
    ids, labels = own["input_ids"][0], own["labels"][0]
    pack = {
        "input_ids": ids,
        "positions": torch.arange(len(ids)),
        "cu_seqlens": torch.tensor([0, len(ids)], dtype=torch.int32),
        "pixels": pixels,
        "grids": [grid],
    }
    hidden = model.hidden_states(**pack)
    close(hidden[::16], own["hidden_last_every_16th"][0])
    close(model.lm_head(hidden[-12:]), own["logits_last_12"][0])
    supervised = (labels[1:] != -100).nonzero()[:, 0]
    loss = model(**pack, supervised=supervised, targets=labels[1:][supervised]) / len(supervised)
    close(loss, own["loss"].reshape(()), atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "places", "name"),
    [
        (4096, [0, 100, 4095], "text.logits_len4096_at_0_100_4095"),
        (4100, [0, 100, 4095, 4099], "text.logits_len4100_at_0_100_4095_4099"),
    ],
)
@torch.no_grad()
def test_texts_on_both_sides_of_the_rope_border_equal_official_code(
    model: Phi3VForCausalLM, official: dict[str, torch.Tensor], tokens: int, places: list[int], name: str
) -> None:
    borders = torch.tensor([0, tokens], dtype=torch.int32)
    hidden = model.hidden_states(official["text.input_ids"][0, :tokens], torch.arange(tokens), borders)
    close(model.lm_head(hidden[places]), official[name])
