"""Which parameters share optimizer settings.

Enters: a model. Leaves: parameter groups for the optimizer. Weight decay pulls matrices towards zero; on norms,
biases and the separators glb_GN and sub_GN it would only distort scales, so they form a group without it.
"""

from typing import Any

import torch

_VECTORS_BY_NAME = ("norm", "bias", "_GN", "class_embedding")


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups, with and without decay, of all parameters that train, in the model's order."""
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": weight_decay, "name": "decay"},
        {"params": [], "weight_decay": 0.0, "name": "no decay"},
    ]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # By name: under ZeRO-3 a parameter shows no shape.
            groups[_is_vector(name)]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def _is_vector(name: str) -> bool:
    return any(part in name for part in _VECTORS_BY_NAME)
