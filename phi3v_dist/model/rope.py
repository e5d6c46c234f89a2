"""LongRoPE ("su") rotary positions, short or long factors chosen per document.

Enters: positions of each token inside its document, and which tokens stand in a long document. Leaves: cos and sin
per token, ready for transformers' Phi3 layers. Source: the official ``Phi3SuScaledRotaryEmbedding``
(modeling_phi3_v.py); LongRoPE, arXiv 2402.13753. The official code takes one list per forward call by the largest
position; inside a pack that would let one long document change all others, so ours decides per document.

Shapes: T tokens of the pack, D head_dim.
"""

import math
from typing import Literal

import torch

from phi3v_dist.model.configuration import Phi3VConfig

RopeMode = Literal["per_document", "short", "long"]


def rope_scale(config: Phi3VConfig) -> float:
    """Factor on cos and sin, for short and long factors alike: sqrt(1 + ln(s) / ln(original length)), s > 1."""
    longer = config.max_position_embeddings / config.original_max_position_embeddings
    if config.long_rope is None or longer <= 1:
        return 1.0
    return math.sqrt(1 + math.log(longer) / math.log(config.original_max_position_embeddings))


def inverse_frequencies(config: Phi3VConfig, *, long: bool, device: torch.device) -> torch.Tensor:
    """(D/2,) float32: 1 / (factor_i · theta^(2i/D))."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64, device=device).float() / config.head_dim
    factors = torch.ones_like(exponents)
    if config.long_rope is not None:
        listed = config.long_rope["long_factor" if long else "short_factor"]
        factors = torch.tensor(listed, dtype=torch.float32, device=device)
    return 1.0 / (factors * config.rope_theta**exponents)


def long_tokens(lengths: torch.Tensor, config: Phi3VConfig, mode: RopeMode) -> torch.Tensor:
    """Which documents take the long factors, (number of documents,) bool, by their ``lengths`` in tokens."""
    if mode == "per_document":
        return lengths > config.original_max_position_embeddings
    return torch.full_like(lengths, mode == "long", dtype=torch.bool)


def rope_cos_sin(
    positions_T: torch.Tensor, long_T: torch.Tensor, config: Phi3VConfig, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, each (T, D) in ``dtype``; angles are computed in float32 as in the official code."""
    device = positions_T.device
    short = inverse_frequencies(config, long=False, device=device)
    frequencies = torch.where(long_T[:, None], inverse_frequencies(config, long=True, device=device), short)
    angles = positions_T[:, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    scale = rope_scale(config)
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)
