"""Crops against the values of the official processor, and against its formula written down a second time."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phi3v_dist.documents.crops import crop_grid, finish_crops, grid_tokens, hd_transform, image_tokens, white_crops

_SAMPLED = [(0, 0, 0), (1, 100, 200), (2, 335, 335), (0, 17, 250)]
sides = st.integers(1, 9000)


def _golden_cases() -> list:
    folder = os.environ.get("PHI3V_GOLDEN")
    if folder is None:
        return [pytest.param(None, None, marks=pytest.mark.skip(reason="PHI3V_GOLDEN names no folder of goldens"))]
    texts = (Path(folder, name).read_text() for name in ("processor_phi3v.json", "processor_phi35v.json"))
    return [
        pytest.param(golden["num_crops"], case, id=f"{golden['num_crops']}-{case['wh'][0]}x{case['wh'][1]}")
        for golden in map(json.loads, texts)
        for case in golden["cases"]
    ]


def _test_picture(width: int, height: int) -> Image.Image:
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    red, green = x * 255 // max(width - 1, 1) + 0 * y, y * 255 // max(height - 1, 1) + 0 * x
    return Image.fromarray(np.stack([red, green, (7 * x + 13 * y) % 256], axis=-1).astype(np.uint8))


def _official_grid(width: int, height: int, num_crops: int, crop_size: int) -> tuple[int, int]:
    """The loop of the official processor, in plain Python."""
    tall = width < height
    if tall:
        width, height = height, width
    ratio, scale = width / height, 1
    while scale * math.ceil(scale / ratio) <= num_crops:
        scale += 1
    scale -= 1
    short = max(int(scale * crop_size / ratio), 1)
    rows = math.ceil(short / crop_size)
    return (scale, rows) if tall else (rows, scale)


@pytest.mark.parametrize(("num_crops", "case"), _golden_cases())
def test_crops_equal_the_official_processor(num_crops: int, case: dict):
    width, height = case["wh"]
    assert image_tokens(width, height, num_crops) == case["n_img_tokens"]
    crops, (rows, columns) = hd_transform(_test_picture(width, height), num_crops, 336)
    assert [[rows * 336, columns * 336]] == case["image_sizes"]
    finished = finish_crops(torch.from_numpy(crops), [(rows, columns)], torch.float32)
    # the official tensor is padded with crops of zeros: they don't change the sum
    assert finished.double().sum().item() == pytest.approx(case["total_sum"], rel=1e-7, abs=1e-2)
    assert [finished[(0, *place)].item() for place in _SAMPLED] == pytest.approx(case["g_samples"], abs=2e-6)
    assert [finished[(1, *place)].item() for place in _SAMPLED] == pytest.approx(case["c1_samples"], abs=2e-7)
    assert finished[0].mean().item() == pytest.approx(case["g_mean"], abs=1e-5)


@given(sides, sides, st.integers(1, 40), st.sampled_from([56, 336]))
def test_grid_equals_the_official_loop(width: int, height: int, num_crops: int, crop_size: int):
    assert crop_grid(width, height, num_crops, crop_size) == _official_grid(width, height, num_crops, crop_size)


@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=20), st.integers(1, 20), st.sampled_from([2, 12]))
def test_arrays_give_what_single_pictures_give(sizes: list, num_crops: int, side: int):
    width, height = np.array(sizes).T
    tokens = image_tokens(width, height, num_crops, side)
    assert tokens.tolist() == [image_tokens(w, h, num_crops, side) for w, h in sizes]


def test_token_count_is_the_published_formula():
    assert [grid_tokens(h, w, 12) for h, w in [(4, 4), (3, 4), (16, 1), (1, 1)]] == [2509, 1921, 2653, 313]
    assert grid_tokens(1, 1, 2) == 2 * (2 * 3) + 1


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 6))
def test_transform_has_the_grid_that_its_size_promises(width: int, height: int, num_crops: int):
    crops, grid = hd_transform(_test_picture(width, height), num_crops, 28)
    assert grid == crop_grid(width, height, num_crops, 28)
    assert crops.shape == (grid[0] * grid[1], 3, 28, 28)
    assert crops.flags.c_contiguous


def test_picture_too_long_for_the_official_processor_works():
    crops, grid = hd_transform(Image.new("RGB", (3000, 1)), 4, 336)
    assert grid == (1, 4)
    assert (crops == 0).any() and (crops == 255).any()


def test_tall_picture_is_padded_left_and_right():
    crops, grid = hd_transform(Image.new("RGB", (10, 100)), 4, 56)
    assert grid == (4, 1)
    assert (crops[:, :, :, 0] == 255).all() and (crops[:, :, :, 27] == 0).all()


def test_pictures_finished_together_equal_pictures_finished_alone():
    sizes = [(100, 40), (40, 100), (30, 30), (100, 41), (33, 31), (31, 33)] * 8
    parts = [hd_transform(_test_picture(*size), 4, 56) for size in sizes]
    together = finish_crops(
        torch.from_numpy(np.concatenate([crops for crops, _ in parts])), [grid for _, grid in parts], torch.float32
    )
    alone = torch.cat([finish_crops(torch.from_numpy(crops), [grid], torch.float32) for crops, grid in parts])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)


def test_white_is_the_normalised_white_everywhere():
    finished = finish_crops(torch.from_numpy(white_crops((2, 1), 56)), [(2, 1)], torch.bfloat16)
    assert finished.shape == (3, 3, 56, 56) and finished.dtype == torch.bfloat16
    white = torch.tensor([1.9303361, 2.0748837, 2.1458969], dtype=torch.bfloat16).view(1, 3, 1, 1)
    assert (finished == white).all()


def test_no_picture_gives_no_crops():
    assert finish_crops(torch.empty((0, 3, 56, 56), dtype=torch.uint8), [], torch.float32).shape == (0, 3, 56, 56)
