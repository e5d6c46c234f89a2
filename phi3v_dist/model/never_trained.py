"""What training never changes, by name: the one place that knows.

- The last layer of the vision tower and ``post_layernorm``: image features are the output of the layer before (official
  default −2), so these never take part. They are frozen, and come out of an export as the base folder has them.
- Row ``padding_token_id`` of the token embedding: ``torch.nn.Embedding`` gives its padding row no gradient, as in the
  official code, but weight decay shrinks the whole matrix. An export puts the row back.

Enters: a configuration; names. Leaves: names, and a trained tensor with what never trains put back from the base.
"""

from collections.abc import Iterable

import torch

from phi3v_dist.model.configuration import Phi3VConfig
from phi3v_dist.model.vision import FEATURE_LAYER

EMBEDDING = "model.embed_tokens.weight"
_TOWER = "model.vision_embed_tokens.img_processor.vision_model"


def frozen_names(names: Iterable[str], config: Phi3VConfig) -> list[str]:
    """Those of ``names`` that never take part: 18 in the official model."""
    layers = config.vision().num_hidden_layers
    unused = [f"{_TOWER}.encoder.layers.{layer}." for layer in range(layers)][FEATURE_LAYER + 1 :]
    return [name for name in names if name.startswith((*unused, f"{_TOWER}.post_layernorm."))]


def as_in_base(name: str, trained: torch.Tensor, base: torch.Tensor, config: Phi3VConfig) -> torch.Tensor:
    """Return what an export writes for a frozen name or ``EMBEDDING``, in the type of ``trained``."""
    if name != EMBEDDING:
        return base.to(trained.dtype)
    whole = trained.clone()
    whole[config.padding_token_id] = base[config.padding_token_id].to(trained.dtype)
    return whole
