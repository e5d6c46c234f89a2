"""A batch as transformers' processors make it, run as a pack.

Enters: padded ids, mask, pixel values with padding crops, image sizes: what the official model is called with. Leaves:
logits in the same shape and the official loss, or ids with greedy answers behind them. Padding is dropped before
anything runs, on whichever side it stands, so a sequence gives what it gives alone (in the official code the padded
length may change its RoPE factors).

Shapes: B sequences of S places, P pictures, V vocabulary.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from transformers.modeling_outputs import CausalLMOutput

if TYPE_CHECKING:
    from phi3v_dist.model.phi3v import Phi3VForCausalLM


def forward_batch(
    model: "Phi3VForCausalLM",
    input_ids_BS: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    pixel_values: torch.Tensor | None = None,
    image_sizes: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
) -> CausalLMOutput:
    """Logits (B, S, V), zeros at padding; with ``labels`` (B, S) the mean loss of the next tokens that are not −100.

    ``pixel_values`` (P, crops + 1, 3, side, side), padding crops allowed; ``image_sizes`` (P, 2) height and width in
    pixels, multiples of the side. Pictures belong to the image tokens in order.
    """
    real = torch.ones_like(input_ids_BS) if attention_mask is None else attention_mask
    real = real.bool()
    lengths = real.sum(1)
    pack = {
        "input_ids": input_ids_BS[real],
        "positions": (real.cumsum(1) - 1)[real],
        "cu_seqlens": F.pad(lengths.cumsum(0), (1, 0)).int(),
    }
    pack["pixels"], pack["grids"] = _pictures(pixel_values, image_sizes)
    found = model(**pack)
    logits = found.new_zeros(*input_ids_BS.shape, found.shape[-1]).masked_scatter(real[..., None], found)
    loss = None
    if labels is not None:
        kept = labels.masked_fill(~real, -100)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), kept[:, 1:].flatten(), ignore_index=-100)
    return CausalLMOutput(loss=loss, logits=logits)


def generate_batch(
    model: "Phi3VForCausalLM",
    input_ids_BS: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    pixel_values: torch.Tensor | None = None,
    image_sizes: torch.Tensor | None = None,
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
) -> torch.Tensor:
    """Ids (B, S + N): the prompts as they came, and greedy answers behind them, padded on the right.

    N is the longest answer; an answer's end token is not in it. Arguments as for ``forward_batch``.
    """
    from phi3v_dist.model.generation import generate

    real = torch.ones_like(input_ids_BS) if attention_mask is None else attention_mask
    pixels, grids = _pictures(pixel_values, image_sizes)
    prompts, left = [], list(grids)
    for ids, mask in zip(input_ids_BS, real.bool(), strict=True):
        pictures = len(ids[mask & (ids < 0)].unique())
        prompts.append(_Prompt(ids[mask].cpu().numpy(), left[:pictures]))
        del left[:pictures]
    answers = [torch.tensor(ids) for ids in generate(model, prompts, pixels, max_new_tokens, end_ids)]
    padding = model.config.padding_token_id
    padded = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=padding)
    return torch.cat((input_ids_BS, padded.to(input_ids_BS)), dim=1)


@dataclass(frozen=True, eq=False)
class _Prompt:
    input_ids: np.ndarray
    grids: list[tuple[int, int]]


def _pictures(
    pixel_values: torch.Tensor | None, image_sizes: torch.Tensor | None
) -> tuple[torch.Tensor | None, list[tuple[int, int]]]:
    """Real crops of all pictures one after the other, and their grids."""
    if pixel_values is None or image_sizes is None:
        return None, []
    side = pixel_values.shape[-1]
    grids = [(height // side, width // side) for height, width in image_sizes.tolist()]
    counts = [1 + rows * columns for rows, columns in grids]
    return torch.cat([crops[:n] for crops, n in zip(pixel_values, counts, strict=True)]), grids
