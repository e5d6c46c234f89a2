"""The demo model is a Phi-3-Vision like any other: transformers' own loader reads it back equal."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3v_dist.files import write_json
from phi3v_dist.model import Phi3VConfig, Phi3VForCausalLM
from phi3v_dist.model.demo import CROP_SIZE, demo_config, demo_model, demo_preprocessor_config
from phi3v_dist.model.folder import check_names, iterate_weights, read_config, shapes_in, write_folder

CONFIG: dict[str, Any] = demo_config(700, {"<s>": 1, "<|endoftext|>": 640})


@pytest.fixture(scope="module")
def model() -> Phi3VForCausalLM:
    return demo_model(CONFIG, seed=3)


@pytest.fixture(scope="module")
def folder(model: Phi3VForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("demo")
    write_json(parent / "side" / "config.json", CONFIG)
    tensors = ((name, tensor.bfloat16()) for name, tensor in model.state_dict().items())
    write_folder(parent / "base", tensors, parent / "side", end_ids=(640,), shard_bytes=500_000)
    return parent / "base"


def test_from_pretrained_reads_every_tensor_as_it_was_written(model: Phi3VForCausalLM, folder: Path) -> None:
    loaded, told = Phi3VForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    assert loaded.dtype == torch.bfloat16
    written = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    found = loaded.state_dict()
    assert found.keys() == written.keys()
    for name, tensor in written.items():
        assert torch.equal(found[name], tensor), name
    assert len(list(folder.glob("*.safetensors"))) > 1


def test_what_transformers_saves_is_read_back_by_us(folder: Path, tmp_path: Path) -> None:
    loaded = Phi3VForCausalLM.from_pretrained(folder)
    loaded.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    assert shapes_in(tmp_path) == shapes_in(folder)
    ours = dict(iterate_weights(folder))
    assert all(torch.equal(ours[name], tensor) for name, tensor in iterate_weights(tmp_path))


def test_loader_of_transformers_overlooks_the_alias_of_third_party_files(folder: Path, tmp_path: Path) -> None:
    weights = dict(iterate_weights(folder))
    weights["model.vision_embed_tokens.wte.weight"] = weights["model.embed_tokens.weight"].clone()
    write_folder(tmp_path / "alias", weights.items(), folder, end_ids=(640,))
    _, told = Phi3VForCausalLM.from_pretrained(tmp_path / "alias", output_loading_info=True)
    assert not any(told.values()), told


def test_folder_holds_the_parameters_of_its_config(folder: Path) -> None:
    fresh = Phi3VForCausalLM(read_config(folder))
    check_names({name: tuple(p.shape) for name, p in fresh.named_parameters()}, shapes_in(folder), folder)


def test_same_seed_same_weights_and_another_seed_others(model: Phi3VForCausalLM) -> None:
    torch.rand(7)  # whatever was drawn before
    same, other = demo_model(CONFIG, seed=3).state_dict(), demo_model(CONFIG, seed=4).state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in model.state_dict().items())
    matrices = [name for name, tensor in same.items() if tensor.ndim == 2]
    assert not any(torch.equal(same[name], other[name]) for name in matrices)


def test_weights_spread_as_the_decoder_and_the_tower_need_them(model: Phi3VForCausalLM) -> None:
    vision = model.model.vision_embed_tokens
    embeddings = vision.img_processor.vision_model.embeddings
    spreads = {  # facts demo.md; inside the tower's layers CLIP's own stay
        0.03: [model.lm_head.weight, model.model.layers[0].mlp.down_proj.weight, vision.img_projection[0].weight],
        0.2: [embeddings.position_embedding.weight],
        0.02: [embeddings.patch_embedding.weight],
    }
    for spread, weights in spreads.items():
        assert [weight.detach().std().item() for weight in weights] == pytest.approx([spread] * len(weights), rel=0.1)
    assert bool((model.model.norm.weight == 1).all())
    assert not vision.sub_GN.any()


def test_crops_fit_the_tower() -> None:
    preprocessor, clip = demo_preprocessor_config(), Phi3VConfig(**CONFIG).vision()
    assert preprocessor["crop_size"] == clip.image_size == CROP_SIZE
    assert preprocessor["num_img_tokens"] == (clip.image_size // clip.patch_size // 2) ** 2
    assert CONFIG["img_processor"]["image_dim_out"] == clip.hidden_size
