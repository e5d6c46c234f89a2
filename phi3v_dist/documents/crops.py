"""Pictures as crops: the HD transform of the official processor, and how many image tokens it gives.

Enters: a picture, or only its width and height. Leaves: ``crop_grid`` and ``image_tokens`` (integers, so that lengths
are known without decoding), ``hd_transform`` (uint8 crops, made on the CPU), ``finish_crops`` (global views added and
normalised, made where the model runs). The work is cut there because uint8 crops are a quarter of the bytes that
loader processes have to hand over, and finishing is quick on the device.

Shape letters: I pictures, C crops of all pictures, S side of a square crop in pixels, h × w grid of a picture's crops.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP, in the order red, green, blue
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
PATCH_SIDE = 14  # pixels
TOKEN_SIDE = 2 * PATCH_SIDE  # the projector merges 2 × 2 patches into one token
OFFICIAL_CROP_SIZE = 336  # pixels

_WHITE = (255, 255, 255)
_PICTURES_AT_ONCE = 32  # bounds the memory of the bicubic views, not their result
_VALUES_AT_ONCE = 2**20  # of crops that are looked up: fits a CPU's cache

Grid = tuple[int, int]
Integers = NDArray[np.int64]


@overload
def crop_grid(width: int, height: int, num_crops: int, crop_size: int = ...) -> Grid: ...
@overload
def crop_grid(width: Integers, height: Integers, num_crops: int, crop_size: int = ...) -> tuple[Integers, Integers]: ...
def crop_grid(width, height, num_crops, crop_size=OFFICIAL_CROP_SIZE):  # type: ignore[no-untyped-def]
    """Return (rows h, columns w) of crops for a picture of this size in pixels; arrays give arrays.

    The longer side gets the most crops s with s × ⌈s ÷ ratio⌉ ≤ ``num_crops``, the shorter side what its scaled length
    needs. All arithmetic is the official one, in float64: exactly 3:4 is a sharp edge, one pixel off changes the grid.
    """
    across, down, tall = _oriented_grid(np.asarray(width), np.asarray(height), num_crops, crop_size)
    rows, columns = np.where(tall, across, down), np.where(tall, down, across)
    return (rows, columns) if rows.ndim else (int(rows), int(columns))


def _oriented_grid(
    width: Integers, height: Integers, num_crops: int, crop_size: int
) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """Crops along the longer side, along the shorter side, and whether the picture is taller than wide."""
    tall = width < height
    ratio = np.maximum(width, height) / np.minimum(width, height)
    scales = np.arange(1, num_crops + 1).reshape(-1, *[1] * ratio.ndim)
    fits = scales * np.ceil(scales / ratio) <= num_crops  # fits is monotone: the count is the largest scale
    across = fits.sum(0)
    down = -(-_short_side(across * crop_size, ratio) // crop_size)
    return across, down, tall


def _short_side(long_side: Integers, ratio: NDArray[np.float64]) -> Integers:
    """Pixels of the resized shorter side, truncated as officially, but never 0."""
    return np.maximum((long_side / ratio).astype(np.int64), 1)


@overload
def image_tokens(width: int, height: int, num_crops: int, crop_tokens_side: int = ...) -> int: ...
@overload
def image_tokens(width: Integers, height: Integers, num_crops: int, crop_tokens_side: int = ...) -> Integers: ...
def image_tokens(width, height, num_crops, crop_tokens_side=12):  # type: ignore[no-untyped-def]
    """Tokens of a picture of this size in pixels; arrays give arrays. ``crop_tokens_side``: tokens along a crop's side.

    Each row of tokens ends with a separator, in the crops (w·s + 1 in each of h·s rows) and in the global view (s + 1
    in each of s rows), and one more separator stands between the two.
    """
    rows, columns = crop_grid(width, height, num_crops, TOKEN_SIDE * crop_tokens_side)
    return grid_tokens(rows, columns, crop_tokens_side)


def grid_tokens(rows, columns, crop_tokens_side: int):  # type: ignore[no-untyped-def]
    """Tokens of a picture with ``rows`` × ``columns`` crops (integers or arrays)."""
    side = crop_tokens_side
    return (rows * columns + 1) * side * side + 1 + (rows + 1) * side


def hd_transform(image: Image.Image, num_crops: int, crop_size: int) -> tuple[NDArray[np.uint8], Grid]:
    """Return a picture's crops (h·w, 3, S, S) uint8 in row-major order, and (h, w).

    The official order is kept for equal bits: a tall picture is mirrored over its main diagonal, then resized
    (BILINEAR) so that its longer side is whole crops, padded with white above and below, and mirrored back. Where the
    picture is so long that its resized shorter side would truncate to 0 pixels the official processor fails; here the
    side is 1 pixel.
    """
    tall = image.width < image.height
    if tall:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    rows, columns = crop_grid(image.width, image.height, num_crops, crop_size)
    long_side = columns * crop_size
    short_side = int(_short_side(np.asarray(long_side), np.asarray(image.width / image.height)))
    padded = Image.new("RGB", (long_side, rows * crop_size), _WHITE)
    resized = image.resize((long_side, short_side), Image.Resampling.BILINEAR)
    padded.paste(resized, (0, (rows * crop_size - short_side) // 2))
    if tall:
        padded, rows, columns = padded.transpose(Image.Transpose.TRANSPOSE), columns, rows
    return _cut(np.asarray(padded), rows, columns, crop_size), (rows, columns)


def _cut(picture: NDArray[np.uint8], rows: int, columns: int, crop_size: int) -> NDArray[np.uint8]:
    """(h·S, w·S, 3) → (h·w, 3, S, S)."""
    tiles = picture.reshape(rows, crop_size, columns, crop_size, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(tiles).reshape(rows * columns, 3, crop_size, crop_size)


def white_crops(grid: Grid, crop_size: int) -> NDArray[np.uint8]:
    """Crops (h·w, 3, S, S) uint8 of a white picture: what stands for one that can't be read."""
    return np.full((grid[0] * grid[1], 3, crop_size, crop_size), 255, dtype=np.uint8)


@torch.no_grad()
def finish_crops(crops: Tensor, grids: Sequence[Grid], dtype: torch.dtype) -> Tensor:
    """Return (I + C, 3, S, S) ``dtype``: per picture its global view, then its crops, normalised, on ``crops``' device.

    ``crops``: (C, 3, S, S) uint8 of all pictures; ``grids``: (h, w) of each picture. A crop's values are looked up in
    a table: bit for bit the official ones on any device. The global view is the official bicubic reduction of the
    whole padded picture, taken before it is normalised, where the sums are exact (see ``_reduced``).
    """
    finished = crops.new_empty((len(grids) + len(crops), *crops.shape[1:]), dtype=dtype)
    starts: dict[Grid, list[tuple[int, int]]] = defaultdict(list)
    first = 0
    for picture, grid in enumerate(grids):
        starts[grid].append((first, first + picture))
        end = first + grid[0] * grid[1]
        _look_up(crops[first:end], finished[first + picture + 1 : end + picture + 1])
        first = end
    for grid, places in starts.items():
        for part in (places[at : at + _PICTURES_AT_ONCE] for at in range(0, len(places), _PICTURES_AT_ONCE)):
            views = _global_views(crops, grid, [start for start, _ in part])
            for (_, place), view in zip(part, views, strict=True):
                finished[place] = view
    return finished


def _look_up(crops: Tensor, out: Tensor) -> None:
    """Write the normalised values of (n, 3, S, S) uint8 into ``out``, a few crops at a time."""
    table, row_starts = _table(crops.device, out.dtype)
    at_once = max(1, _VALUES_AT_ONCE // crops[0].numel())
    for part, target in zip(crops.split(at_once), out.split(at_once), strict=True):
        # int32: half the bytes of PyTorch's usual index, and on the CPU several times as quick
        torch.index_select(table, 0, (part.to(torch.int32) + row_starts).view(-1), out=target.view(-1))


@cache
def _table(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Normalised values (3 · 256,) of each channel and uint8, made on the CPU; where each channel begins (3, 1, 1)."""
    values = torch.arange(256, dtype=torch.float32).expand(1, 3, 1, 256)
    starts = torch.tensor([0, 256, 512], dtype=torch.int32).view(3, 1, 1)
    return _normalise(values).flatten().to(device, dtype), starts.to(device)


def _normalise(values: Tensor) -> Tensor:
    """(n, 3, …, …) of 0 to 255 → float32 in the order of the official processor: ÷ 255, − mean, ÷ std."""
    largest, mean, std = _divisors(values.device)
    return (values / largest).sub_(mean).div_(std)


@cache
def _divisors(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    # tensors, because CUDA would multiply by the rounded reciprocal of a plain number
    largest, mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1) for values in ((255.0,) * 3, IMAGE_MEAN, IMAGE_STD)
    )
    return largest, mean, std


def _global_views(crops: Tensor, grid: Grid, starts: list[int]) -> Tensor:
    """(n, 3, S, S) float32: the bicubic reductions of the n pictures of one grid that start at these crops."""
    rows, columns = grid
    side = crops.shape[-1]
    tiles = torch.stack([crops[start : start + rows * columns] for start in starts])
    tiles = tiles.view(-1, rows, columns, 3, side, side).permute(0, 3, 1, 4, 2, 5)
    pictures = tiles.reshape(-1, 3, rows * side, columns * side)
    return _normalise(_reduced(_reduced(pictures, 2, rows), 3, columns))


def _reduced(values: Tensor, axis: int, factor: int) -> Tensor:
    """Every ``factor``-th bicubic sample along an axis (a = −0.75, no antialias, as ``F.interpolate`` has it).

    An odd factor puts each sample on a pixel. An even one puts it half way between two: the weights of the four pixels
    around are (−3, 19, 19, −3) ÷ 32, so that sums over uint8 are exact in float32, on both axes together too. Only
    factor 2 reaches over the edges; there the outermost pixel stands twice.
    """
    length = values.shape[axis]

    def samples(first: int) -> Tensor:
        return values[(slice(None),) * axis + (slice(first, first + length - factor + 1, factor),)]

    if factor % 2:
        return samples(factor // 2)
    first = factor // 2 - 2
    if factor == 2:
        ends = values.narrow(axis, 0, 1), values.narrow(axis, length - 1, 1)
        values, first = torch.cat([ends[0], values, ends[1]], axis), 0
    inner = samples(first + 1).to(torch.float32) + samples(first + 2)
    outer = samples(first).to(torch.float32) + samples(first + 3)
    return inner.mul_(19 / 32).sub_(outer, alpha=3 / 32)
