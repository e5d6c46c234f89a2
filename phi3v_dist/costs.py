"""Arithmetic of a pack by formula: pure functions of numbers.

Enters: the model's sizes, and what a pack holds. Leaves: the memory that training on it takes, and the FLOPs (a
multiplication and an addition are two) of its matrix products; norms, activations, softmax and RoPE are left out, they
are below 1 %. The convention is that of published model FLOPs: attention counts the causal half, nothing that is
computed twice counts twice (``recomputed`` says it apart), a backward pass costs two forward passes, and packs without
a picture have none (the blank one that goes through the tower in its place is not the model's work).
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSizes:
    """What the formulas need of a Phi-3-Vision; the defaults are the real one's.

    ``key_value_width``: key heads · head width. ``vision_layers``: those that run, the last one has weights but never
    takes part. ``crop_side`` and ``patch_side`` in pixels.
    """

    hidden: int = 3072
    intermediate: int = 8192
    layers: int = 32
    key_value_width: int = 3072
    vocabulary: int = 32_064
    vision_hidden: int = 1024
    vision_intermediate: int = 4096
    vision_layers: int = 23
    crop_side: int = 336
    patch_side: int = 14


@dataclass(frozen=True)
class PackFlops:
    """FLOPs of one forward pass by part: decoder layers' projections, their attention, head, CLIP, its projector."""

    layers: float
    attention: float
    head: float
    crops: float
    image_tokens: float

    @property
    def forward(self) -> float:
        """FLOPs of one forward pass."""
        return self.layers + self.attention + self.head + self.crops + self.image_tokens

    def training(self, *, train_vision: bool = True) -> float:
        """FLOPs of forward and backward, nothing computed twice; a frozen vision part runs forward alone."""
        vision = self.crops + self.image_tokens
        return 3 * self.forward if train_vision else 3 * (self.forward - vision) + vision

    def recomputed(self, *, activation_checkpointing: bool, chunked_loss: bool) -> float:
        """FLOPs done a second time in backward, on top of ``training``: layers and crops, and the chunked loss."""
        checkpointed = self.layers + self.attention + self.crops
        return activation_checkpointing * checkpointed + chunked_loss * self.head


def token_flops(sizes: ModelSizes) -> float:
    """Forward FLOPs of one token in all decoder layers, attention scores left out."""
    attention = sizes.hidden * (2 * sizes.hidden + 2 * sizes.key_value_width)
    return 2 * sizes.layers * (attention + 3 * sizes.hidden * sizes.intermediate)


def attention_flops(sizes: ModelSizes, lengths: Iterable[int]) -> float:
    """Forward FLOPs of scores and weighted sums of documents of these lengths (tokens), the causal half."""
    return 4 * sizes.layers * sizes.hidden * sum(length * length for length in lengths) / 2


def supervised_token_flops(sizes: ModelSizes) -> float:
    """Forward FLOPs of one token in lm_head."""
    return 2 * sizes.hidden * sizes.vocabulary


def crop_flops(sizes: ModelSizes) -> float:
    """Forward FLOPs of one crop, or global view, in CLIP: every patch and the class token see each other."""
    width, patches = sizes.vision_hidden, (sizes.crop_side // sizes.patch_side) ** 2
    tokens = patches + 1
    linear = 2 * tokens * (4 * width * width + 2 * width * sizes.vision_intermediate)
    embedding = 2 * patches * width * 3 * sizes.patch_side**2
    return embedding + sizes.vision_layers * (linear + 4 * width * tokens * tokens)


def image_token_flops(sizes: ModelSizes) -> float:
    """Forward FLOPs of one image token in the projector; it reads four patches laid side by side."""
    return 2 * (4 * sizes.vision_hidden * sizes.hidden + sizes.hidden * sizes.hidden)


def pack_flops(
    sizes: ModelSizes, lengths: Iterable[int], supervised_tokens: int, crops: int, image_tokens: int
) -> PackFlops:
    """FLOPs of a pack of documents of these ``lengths``; ``crops``: with the global views."""
    lengths = list(lengths)
    return PackFlops(
        layers=sum(lengths) * token_flops(sizes),
        attention=attention_flops(sizes, lengths),
        head=supervised_tokens * supervised_token_flops(sizes),
        crops=crops * crop_flops(sizes),
        image_tokens=image_tokens * image_token_flops(sizes),
    )


# Memory of the real model, by arithmetic, measured on no GPU yet (facts: perf.md, section 4). Bytes per parameter: 2
# weight (bf16), 4 gradient (summed in float32), 12 optimizer (float32 weight and AdamW's two moments).
PARAMETERS = 4_146_621_440
_STATE_BYTES = 2 + 4 + 12
_RUNTIME_BYTES = 4e9  # CUDA's context, NCCL, buckets, two gathered layers
_TOKEN_BYTES = 18_000  # embeddings, last hidden state, their gradients
_LAYER_INPUT_BYTES = 2 * 3072 * 32  # of a token, over all decoder layers
_LAYER_PEAK_BYTES = 186_000  # of a token, while one layer runs backward
_CROP_BYTES = 1.9e6  # kept of a crop until backward
_VISION_PEAK_BYTES = 16 * 425e6  # 16 crops are computed again together
_LOSS_CHUNK_BYTES = 3 * 1024 * 32_064 * 4  # float32 logits of 1,024 tokens, their softmax, a product


@dataclass(frozen=True)
class MemoryBytes:
    """Of one GPU by part. Decoder layers and vision tower run backward one after the other: the larger one counts."""

    states: float
    gathered: float
    runtime: float
    tokens: float
    decoder: float
    vision_peak: float

    @property
    def total(self) -> float:
        """Bytes at the highest point."""
        return self.states + self.gathered + self.runtime + self.tokens + max(self.decoder, self.vision_peak)


def training_memory(num_ranks: int, pack_tokens: int, crops: int, *, keep_gathered: bool = False) -> MemoryBytes:
    """Memory of one of ``num_ranks`` GPUs that train all of the real model, activations computed again in backward.

    ``crops``: of the pack, with the global views. ``keep_gathered``: weights stay gathered from forward to backward
    (``ds_configs/zero3_keep.json``); one rank has them whole anyway.
    """
    return MemoryBytes(
        states=_STATE_BYTES * PARAMETERS / num_ranks,
        gathered=2.0 * PARAMETERS if keep_gathered and num_ranks > 1 else 0.0,
        runtime=_RUNTIME_BYTES,
        tokens=_TOKEN_BYTES * pack_tokens + _CROP_BYTES * crops + _LOSS_CHUNK_BYTES,
        decoder=(_LAYER_INPUT_BYTES + _LAYER_PEAK_BYTES) * pack_tokens,
        vision_peak=_VISION_PEAK_BYTES,
    )
