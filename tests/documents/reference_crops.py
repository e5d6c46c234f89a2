"""The official processor's way from a picture to pixel values, written down a second time, step by step.

``official_pixels`` is the official algorithm, loop and all (facts: phi3v.md, section 5). ``finish_by_interpolation``
finishes uint8 crops in the official order (normalise everything, then ``F.interpolate``), batched by grid: what
``crops.finish_crops`` did before it had its table, and what tools/bench/crops.py measures it against.
"""

import math
from collections import defaultdict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
_PICTURES_AT_ONCE = 32


def drawn_picture(width: int, height: int) -> Image.Image:
    """The picture that the golden values were made with: gradients to the right and down, and a fine pattern."""
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    red, green = x * 255 // max(width - 1, 1) + 0 * y, y * 255 // max(height - 1, 1) + 0 * x
    return Image.fromarray(np.stack([red, green, (7 * x + 13 * y) % 256], axis=-1).astype(np.uint8))


def official_grid(width: int, height: int, num_crops: int, side: int) -> tuple[int, int, int]:
    """(rows, columns, pixels of the resized shorter side) by the loop of the official processor; 0 pixels: it fails."""
    tall = width < height
    if tall:
        width, height = height, width
    ratio, scale = width / height, 1
    while scale * math.ceil(scale / ratio) <= num_crops:
        scale += 1
    scale -= 1
    short = int(scale * side / ratio)
    rows = math.ceil(short / side)
    return (scale, rows, short) if tall else (rows, scale, short)


def official_pixels(picture: Image.Image, num_crops: int, side: int) -> tuple[Tensor, list[int], int]:
    """(num_crops + 1, 3, S, S) float32 of an RGB picture, [height, width] after padding, its tokens."""
    tall = picture.width < picture.height
    if tall:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    rows, columns, short = official_grid(*picture.size, num_crops, side)
    resized = np.asarray(picture.resize((columns * side, short), Image.Resampling.BILINEAR))
    top = int((rows * side - short) / 2)
    bottom = rows * side - short - top
    padded = np.pad(resized, ((top, bottom), (0, 0), (0, 0)), constant_values=255)
    if tall:
        padded, rows, columns = padded.transpose(1, 0, 2), columns, rows
    values = torch.from_numpy(np.array(padded)).permute(2, 0, 1)[None].to(torch.float32) / 255
    values = (values - MEAN) / STD
    view = functional.interpolate(values, size=(side, side), mode="bicubic")
    crops = values.reshape(1, 3, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, side, side)
    blank = torch.zeros(num_crops - rows * columns, 3, side, side)
    token_side = side // 28
    tokens = (rows * columns + 1) * token_side**2 + 1 + (rows + 1) * token_side
    return torch.cat([view, crops, blank]), [rows * side, columns * side], tokens


def finish_by_interpolation(crops: Tensor, grids: list[tuple[int, int]], dtype: torch.dtype) -> Tensor:
    """(I + C, 3, S, S): what ``crops.finish_crops`` gives, from normalised floats and ``F.interpolate``."""
    normalised = crops.to(torch.float32).div_(torch.full((1, 3, 1, 1), 255.0, device=crops.device))
    normalised = normalised.sub_(MEAN.to(crops.device)).div_(STD.to(crops.device))
    counts = np.array([rows * columns for rows, columns in grids], dtype=np.int64)
    starts = np.cumsum(counts) - counts
    places = starts + np.arange(len(grids))
    finished = normalised.new_empty((len(grids) + len(crops), *crops.shape[1:]), dtype=dtype)
    is_view = torch.zeros(len(finished), dtype=torch.bool)
    is_view[places] = True
    finished.index_copy_(0, (~is_view).nonzero()[:, 0].to(crops.device), normalised.to(dtype))
    groups = defaultdict(list)
    for picture, grid in enumerate(grids):
        groups[grid].append(picture)
    for grid, pictures in groups.items():
        for first in range(0, len(pictures), _PICTURES_AT_ONCE):
            part = pictures[first : first + _PICTURES_AT_ONCE]
            views = _interpolated_views(normalised, grid, starts[part])
            finished.index_copy_(0, torch.from_numpy(places[part]).to(crops.device), views.to(dtype))
    return finished


def _interpolated_views(normalised: Tensor, grid: tuple[int, int], starts: np.ndarray) -> Tensor:
    rows, columns = grid
    side = normalised.shape[-1]
    numbers = torch.from_numpy(starts)[:, None] + torch.arange(rows * columns)
    tiles = (
        normalised[numbers.flatten().to(normalised.device)]
        .view(len(starts), rows, columns, 3, side, side)
        .permute(0, 3, 1, 4, 2, 5)
    )
    pictures = tiles.reshape(len(starts), 3, rows * side, columns * side)
    return functional.interpolate(pictures, size=(side, side), mode="bicubic", align_corners=False, antialias=False)
