"""Every trained parameter is in one group; what has no decay is told by shape, where the code goes by name."""

import pytest
import torch

from phi3v_dist.model import Phi3VForCausalLM
from phi3v_dist.model.demo import demo_config, demo_model
from phi3v_dist.training.groups import parameter_groups


@pytest.fixture
def model() -> Phi3VForCausalLM:
    return demo_model(demo_config(700, {"<s>": 1, "<|endoftext|>": 640}), seed=0)


def names_of(model: torch.nn.Module, group: dict) -> list[str]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for parameter in group["params"]]


@pytest.mark.parametrize("train_vision", [True, False])
def test_every_trained_parameter_is_in_exactly_one_group_in_the_models_order(
    model: Phi3VForCausalLM, train_vision: bool
) -> None:
    model.freeze(train_vision=train_vision)
    groups = parameter_groups(model, 0.1)
    found = [name for group in groups for name in names_of(model, group)]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(found) == sorted(trained)
    for group in groups:
        names = names_of(model, group)
        assert names == [name for name in trained if name in set(names)]


def test_matrices_decay_and_vectors_do_not(model: Phi3VForCausalLM) -> None:
    decay, rest = parameter_groups(model, 0.1)
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert all(sum(size > 1 for size in parameter.shape) >= 2 for parameter in decay["params"])
    assert all(sum(size > 1 for size in parameter.shape) == 1 for parameter in rest["params"])


def test_names_of_both_groups_are_these(model: Phi3VForCausalLM) -> None:
    decay, rest = (set(names_of(model, group)) for group in parameter_groups(model, 0.1))
    vision = "model.vision_embed_tokens"
    assert decay >= {
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.qkv_proj.weight",
        f"{vision}.img_projection.0.weight",
        f"{vision}.img_processor.vision_model.embeddings.patch_embedding.weight",
        f"{vision}.img_processor.vision_model.embeddings.position_embedding.weight",
    }
    assert rest >= {
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        f"{vision}.glb_GN",
        f"{vision}.sub_GN",
        f"{vision}.img_projection.2.bias",
        f"{vision}.img_processor.vision_model.embeddings.class_embedding",
        f"{vision}.img_processor.vision_model.pre_layrnorm.weight",
    }


def test_a_group_without_parameters_is_left_out() -> None:
    assert len(parameter_groups(torch.nn.Linear(2, 2, bias=False), 0.1)) == 1
