"""Greedy answers for many prompts at once.

Enters: prompts (token ids, crops already finished to pixels). Leaves: the new token ids of each, the end token not
included. The prompts run as one pack; then every sequence takes one token per call, with keys and values cached per
sequence, so prompts may differ in length without padding.

Under ZeRO-3 every rank must run the same modules equally often: ``everyone_done`` lets the caller agree with the
other ranks on when to stop, and a rank that has finished goes on until all have. The same agreement decides when
prompts are read again, see below.

When a sequence grows past the border of LongRoPE's short factors all its keys change. The official Phi-3 code keeps
the old ones and degrades (facts: phi3v.md, 2.2); here the prompts are read again with what was generated so far.

Shapes: B sequences, N heads, L room for tokens, H head width, T tokens of the pack.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from phi3v_dist.model.phi3v import Phi3VForCausalLM
from phi3v_dist.model.rope import long_tokens, rope_cos_sin


class PromptIds(Protocol):
    """What a prompt must have: its token ids (negative at image tokens) and the crop grid of each picture."""

    input_ids: np.ndarray
    grids: Sequence[tuple[int, int]]


class SequenceCache:
    """Keys and values of B sequences, right-padded to L tokens, in the form transformers' layers call ``update`` on."""

    def __init__(self, lengths: torch.Tensor, room: int) -> None:
        self.lengths = lengths
        self.room = int(lengths.max()) + room
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, **_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """First call: a pack (1, N, T, H), kept and handed back. Later: (B, N, 1, H), appended; all are handed back."""
        if layer not in self.layers:
            self.layers[layer] = self._unpack(keys), self._unpack(values)
            return keys, values
        rows = torch.arange(len(self.lengths), device=keys.device)
        for cached, new in zip(self.layers[layer], (keys, values), strict=True):
            cached[rows, :, self.lengths] = new[:, :, 0]
        return self.layers[layer]

    def _unpack(self, packed_1NTH: torch.Tensor) -> torch.Tensor:
        sequences = packed_1NTH[0].transpose(0, 1).split(self.lengths.tolist())
        padded_BLNH = pad_sequence(list(sequences), batch_first=True)
        more = self.room - padded_BLNH.shape[1]
        return F.pad(padded_BLNH, (0, 0, 0, 0, 0, more)).transpose(1, 2).contiguous()

    def attend(self, q_BN1H: torch.Tensor, k_BNLH: torch.Tensor, v_BNLH: torch.Tensor, scale: float) -> torch.Tensor:
        """One new token of each sequence looks at its own tokens: (B, 1, N, H)."""
        seen = torch.arange(self.room, device=q_BN1H.device) <= self.lengths[:, None]
        output = F.scaled_dot_product_attention(q_BN1H, k_BNLH, v_BNLH, attn_mask=seen[:, None, None], scale=scale)
        return output.transpose(1, 2)


def _alone(done: bool) -> bool:
    return done


@torch.no_grad()
def generate(
    model: Phi3VForCausalLM,
    prompts: Sequence[PromptIds],
    pixels: torch.Tensor | None,
    max_new_tokens: int,
    end_ids: Collection[int],
    everyone_done: Callable[[bool], bool] = _alone,
) -> list[list[int]]:
    """Greedy continuation of each prompt, at most ``max_new_tokens`` tokens, cut before the first of ``end_ids``.

    ``pixels`` (C, 3, H, W): the pictures of all prompts in order, each as [global view, crops].
    """
    device = model.lm_head.weight.device
    prompt_ids = [torch.from_numpy(np.asarray(prompt.input_ids)).long().to(device) for prompt in prompts]
    grids = [grid for prompt in prompts for grid in prompt.grids]
    new = torch.zeros((len(prompts), 0), dtype=torch.long, device=device)
    crossing = _Crossing(model, prompt_ids, max_new_tokens, everyone_done)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    ends = torch.tensor(sorted(end_ids), device=device)
    cache = None
    for _ in range(max_new_tokens):
        lengths = torch.tensor([len(ids) for ids in prompt_ids], device=device) + new.shape[1]
        if cache is None or crossing.now(lengths):
            cache = SequenceCache(lengths, max_new_tokens)
            logits = _read(model, prompt_ids, new, pixels, grids, cache)
        else:
            logits = _one_more(model, new[:, -1], cache)
        token = logits.argmax(-1)
        new = torch.cat((new, token[:, None]), dim=1)
        ended |= torch.isin(token, ends)
        if everyone_done(bool(ended.all())):
            break
    stop = set(end_ids)
    return [_cut(ids, stop) for ids in new.tolist()]


class _Crossing:
    """Whether some sequence, on any rank, has just grown past the border where its RoPE factors change."""

    def __init__(
        self,
        model: Phi3VForCausalLM,
        prompt_ids: Sequence[torch.Tensor],
        max_new_tokens: int,
        everyone_done: Callable[[bool], bool],
    ) -> None:
        self.border = model.config.original_max_position_embeddings
        self.agree = everyone_done
        fixed = model.rope_mode != "per_document" or model.config.long_rope is None
        crosses = [len(ids) <= self.border < len(ids) + max_new_tokens for ids in prompt_ids]
        # Asked once for all tokens, so that short answers cost no more collectives.
        self.possible = not fixed and not everyone_done(not any(crosses))

    def now(self, lengths: torch.Tensor) -> bool:
        """Return the same on every rank: all read their prompts again, or none."""
        return self.possible and not self.agree(not bool((lengths == self.border + 1).any()))


def _cut(ids: list[int], stop: set[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids) if token in stop), len(ids))
    return ids[:end]


def _read(
    model: Phi3VForCausalLM,
    prompt_ids: list[torch.Tensor],
    new: torch.Tensor,
    pixels: torch.Tensor | None,
    grids: list[tuple[int, int]],
    cache: SequenceCache,
) -> torch.Tensor:
    """Run all sequences as one pack; return the logits (B, vocabulary) after each one's last token."""
    sequences = [torch.cat((ids, more)) for ids, more in zip(prompt_ids, new, strict=True)]
    ends = cache.lengths.cumsum(0)
    hidden = model.hidden_states(
        input_ids=torch.cat(sequences),
        positions=torch.cat([torch.arange(len(s), device=s.device) for s in sequences]),
        cu_seqlens=F.pad(ends, (1, 0)).int(),
        pixels=pixels,
        grids=grids,
        cache=cache,
    )
    return model.lm_head(hidden[ends - 1])


def _one_more(model: Phi3VForCausalLM, token_B: torch.Tensor, cache: SequenceCache) -> torch.Tensor:
    """Run one new token of each sequence; return the logits (B, vocabulary) after it."""
    hidden = model.model.embed_tokens(token_B)[:, None]
    long = long_tokens(cache.lengths + 1, model.config, model.rope_mode)
    cos, sin = rope_cos_sin(cache.lengths, long, model.config, hidden.dtype)
    hidden = model.model.run_layers(hidden, (cos[:, None], sin[:, None]), cache.attend, cache)
    cache.lengths = cache.lengths + 1
    return model.lm_head(hidden[:, 0])
