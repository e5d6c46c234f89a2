"""Arithmetic of a pack by formula: pure functions of numbers.

Enters: the model's sizes, and what a pack holds. Leaves: FLOPs (a multiplication and an addition are two) of its matrix
products; norms, activations, softmax and RoPE are left out, they are below 1 %. The convention is that of published
model FLOPs: attention counts the causal half, nothing that is computed twice counts twice (``recomputed`` says it
apart), a backward pass costs two forward passes, and packs without a picture have none (the blank one that goes
through the tower in its place is not the model's work).
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
