"""What training never changes: the names against the official code's missing gradients and our own freezing."""

import pytest
import torch
from formula import MANIFEST, golden_config, golden_model, golden_values, pack_of
from official_layout import CONFIG, official_shapes

from phi3v_dist.model import Phi3VConfig
from phi3v_dist.model.never_trained import EMBEDDING, as_in_base, frozen_names

NAMES = [name for name, _ in MANIFEST["parameters"]]


def test_frozen_names_are_those_to_which_the_official_code_gives_no_gradient() -> None:
    assert set(frozen_names(NAMES, golden_config("phi3v"))) == set(MANIFEST["no_gradient"]["picture cases"])


def test_frozen_names_of_the_official_model_hold_12_598_272_parameters() -> None:
    shapes = official_shapes()
    names = frozen_names(shapes, Phi3VConfig(**CONFIG))
    assert len(names) == 18
    assert all(".encoder.layers.23." in name or ".post_layernorm." in name for name in names)
    assert sum(torch.Size(shapes[name]).numel() for name in names) == 12_598_272


def test_frozen_names_are_what_the_model_freezes() -> None:
    model = golden_model()
    model.freeze(train_vision=True)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert sorted(frozen) == sorted(frozen_names(NAMES, model.config))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_after_steps_with_weight_decay_everything_that_never_trains_is_put_back_bit_for_bit(dtype: torch.dtype) -> None:
    model = golden_model()
    base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.freeze(train_vision=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.5)
    for _ in range(2):
        model(**pack_of("text_short", golden_values())).backward()
        optimizer.step()
    row = model.config.padding_token_id
    trained = {name: parameter.detach().to(dtype) for name, parameter in model.named_parameters()}
    assert not torch.equal(trained[EMBEDDING][row], base[EMBEDDING][row].to(dtype))  # decay moved it
    for name in frozen_names(NAMES, model.config):
        assert torch.equal(as_in_base(name, trained[name], base[name], model.config), base[name].to(dtype))
    written = as_in_base(EMBEDDING, trained[EMBEDDING], base[EMBEDDING], model.config)
    assert written.dtype == dtype
    assert torch.equal(written[row], base[EMBEDDING][row].to(dtype))
    others = torch.arange(len(written)) != row
    assert torch.equal(written[others], trained[EMBEDDING][others])
