"""From pixels to image tokens: CLIP features, the HD transform, the projector.

Enters: pixels of all pictures of a pack. Leaves: one vector of the language model's width per image token, in the
order in which the tokens stand. Source: the official ``Phi3ImageEmbedding`` (image_embedding_phi3_v.py) and facts
phi3v.md, sections 3 and 4. Two things are done differently, with equal results: only real crops run (no padding
crops), and the HD transform is one gather by an index computed from the crop grids, so it costs the same few
operations for one picture as for a hundred.

Shapes: P pictures; C crops of all pictures, global views counted; S patches on a side; s = S/2 merged patches on a
side; V width of the tower; I image tokens.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers import CLIPVisionModel

from phi3v_dist.model.configuration import Phi3VConfig

# One unit of recomputation: 1.9 MB a crop are kept, 6.8 GB stand at the peak (facts: perf.md, section 4).
_CROPS_RECOMPUTED_TOGETHER = 16
FEATURE_LAYER = -2  # official default of img_processor.layer_idx: the last layer never takes part


class VisionTower(torch.nn.Module):
    """Holds ``vision_model``, so that parameter names are the official ones."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        self.vision_model = CLIPVisionModel(config.vision())
        self.recompute = False

    def forward(self, pixels_C3HW: torch.Tensor) -> torch.Tensor:
        """(C, S·S, V): features of the last but one layer, without the class token and post_layernorm."""
        if not (self.recompute and torch.is_grad_enabled()):
            return self._features(pixels_C3HW)
        chunks = pixels_C3HW.split(_CROPS_RECOMPUTED_TOGETHER)
        return torch.cat([checkpoint(self._features, chunk, use_reentrant=False) for chunk in chunks])

    def _features(self, pixels_C3HW: torch.Tensor) -> torch.Tensor:
        clip = self.vision_model
        hidden = clip.pre_layrnorm(clip.embeddings(pixels_C3HW))
        for layer in clip.encoder.layers[: len(clip.encoder.layers) + FEATURE_LAYER + 1]:
            hidden = layer(hidden, None)
        return hidden[:, 1:]

    def never_trained(self) -> list[torch.nn.Module]:
        """Modules that have weights but never take part: their gradient would not exist."""
        return [*self.vision_model.encoder.layers[FEATURE_LAYER + 1 :], self.vision_model.post_layernorm]


class ImageEmbedding(torch.nn.Module):
    """``model.vision_embed_tokens``: vision tower, separators and projector. One leaf module under ZeRO-3.

    A leaf is gathered whole, so ranks may pass different numbers of crops through it.
    """

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        self.img_processor = VisionTower(config)
        width = 4 * self.img_processor.vision_model.config.hidden_size
        self.glb_GN = torch.nn.Parameter(torch.zeros(1, 1, width))
        self.sub_GN = torch.nn.Parameter(torch.zeros(1, 1, 1, width))
        self.img_projection = torch.nn.Sequential(
            torch.nn.Linear(width, config.hidden_size),
            torch.nn.GELU(),
            torch.nn.Linear(config.hidden_size, config.hidden_size),
        )

    def forward(self, pixels_C3HW: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """(I, hidden size) for pictures whose crops come as [global view, crops row by row] one after the other."""
        features = merge_patches(self.img_processor(pixels_C3HW))
        crops, places, width = features.shape
        index = torch.from_numpy(token_index(tuple(grids), int(places**0.5))).to(features.device)
        assert crops == sum(1 + rows * columns for rows, columns in grids), "crops and grids disagree"
        separators = torch.stack((self.sub_GN.reshape(width), self.glb_GN.reshape(width))).to(features.dtype)
        rows = torch.cat((separators, features.reshape(-1, width)))
        return self.img_projection(rows[index])


def merge_patches(features: torch.Tensor) -> torch.Tensor:
    """(C, S·S, V) → (C, s·s, 4V): each 2 × 2 patches become one vector, in row-major order inside the square."""
    crops, patches, width = features.shape
    side = int(patches**0.5) // 2
    square = features.reshape(crops, side, 2, side, 2, width).permute(0, 1, 3, 2, 4, 5)
    return square.reshape(crops, side * side, 4 * width)


def token_index(grids: tuple[tuple[int, int], ...], side: int) -> np.ndarray:
    """Index (I,) int64 of every image token into [sub_GN, glb_GN, merged patches of all crops]."""
    parts, first = [], 2
    for rows, columns in grids:
        index = _picture_index(rows, columns, side)
        parts.append(np.where(index < 2, index, index + first - 2))
        first += (1 + rows * columns) * side * side
    return np.concatenate(parts)


@lru_cache(maxsize=1024)
def _picture_index(rows: int, columns: int, side: int) -> np.ndarray:
    """Index of one picture: crops tiled to the whole picture, sub_GN after every row; glb_GN; the global view."""
    crops = 2 + side * side * (1 + np.arange(rows * columns)[:, None, None])
    crops = (crops + np.arange(side * side).reshape(1, side, side)).reshape(rows, columns, side, side)
    whole = crops.transpose(0, 2, 1, 3).reshape(rows * side, columns * side)
    view = 2 + np.arange(side * side).reshape(side, side)
    return np.concatenate((_with_line_ends(whole), [1], _with_line_ends(view)))


def _with_line_ends(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, ((0, 0), (0, 1)), constant_values=0).reshape(-1)
