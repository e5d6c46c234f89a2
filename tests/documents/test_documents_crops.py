"""Crops against the values of the official processor, and against its formula written down a second time."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reference_crops import drawn_picture, finish_by_interpolation, official_grid, official_pixels
from torch.nn import functional

from phi3v_dist.documents.crops import (
    _reduced,
    crop_grid,
    finish_crops,
    grid_tokens,
    hd_transform,
    image_tokens,
    white_crops,
)

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


@pytest.mark.parametrize(("num_crops", "case"), _golden_cases())
def test_crops_equal_the_official_processor(num_crops: int, case: dict):
    width, height = case["wh"]
    assert image_tokens(width, height, num_crops) == case["n_img_tokens"]
    crops, (rows, columns) = hd_transform(drawn_picture(width, height), num_crops, 336)
    assert [[rows * 336, columns * 336]] == case["image_sizes"]
    finished = finish_crops(torch.from_numpy(crops), [(rows, columns)], torch.float32)
    # the official tensor is padded with crops of zeros: they don't change the sum
    assert finished.double().sum().item() == pytest.approx(case["total_sum"], rel=1e-7, abs=1e-2)
    assert [finished[(0, *place)].item() for place in _SAMPLED] == pytest.approx(case["g_samples"], abs=1e-6)
    assert [finished[(1, *place)].item() for place in _SAMPLED] == pytest.approx(case["c1_samples"], abs=2e-7)
    assert finished[0].mean().item() == pytest.approx(case["g_mean"], abs=1e-5)


@given(sides, sides, st.integers(1, 40), st.sampled_from([56, 336]))
def test_grid_equals_the_official_loop(width: int, height: int, num_crops: int, crop_size: int):
    rows, columns, short_side = official_grid(width, height, num_crops, crop_size)
    if short_side == 0:  # the official processor fails; ours keeps one pixel
        rows, columns = max(rows, 1), max(columns, 1)
    assert crop_grid(width, height, num_crops, crop_size) == (rows, columns)


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
    crops, grid = hd_transform(drawn_picture(width, height), num_crops, 28)
    assert grid == crop_grid(width, height, num_crops, 28)
    assert crops.shape == (grid[0] * grid[1], 3, 28, 28)
    assert crops.flags.c_contiguous


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_every_pixel_equals_the_official_algorithm(width: int, height: int, num_crops: int, seed: int):
    """On noise, where a wrong tap or a shifted row shows; crops to the bit, the view to float32's rounding."""
    if official_grid(width, height, num_crops, 56)[2] == 0:
        return
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    truth, size, tokens = official_pixels(Image.fromarray(noise), num_crops, 56)
    crops, (rows, columns) = hd_transform(Image.fromarray(noise), num_crops, 56)
    finished = finish_crops(torch.from_numpy(crops), [(rows, columns)], torch.float32)
    assert [rows * 56, columns * 56] == size
    assert image_tokens(width, height, num_crops, 2) == tokens
    assert torch.equal(finished[1:], truth[1 : len(finished)])
    torch.testing.assert_close(finished[0], truth[0], rtol=0, atol=1e-6)
    assert not truth[len(finished) :].any()


@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_global_view_is_exact_where_interpolate_rounds(rows: int, columns: int, seed: int):
    """Sums over uint8 equal ``F.interpolate`` in float64, which holds them exactly, to the bit."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randint(0, 256, (1, 3, 28 * rows, 28 * columns), dtype=torch.uint8, generator=generator)
    exact = functional.interpolate(picture.double(), size=(28, 28), mode="bicubic")
    assert torch.equal(_reduced(_reduced(picture, 2, rows), 3, columns).double(), exact)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finished_batch_equals_the_way_by_interpolation(dtype: torch.dtype, grids: list, seed: int):
    generator = torch.Generator().manual_seed(seed)
    count = sum(rows * columns for rows, columns in grids)
    crops = torch.randint(0, 256, (count, 3, 28, 28), dtype=torch.uint8, generator=generator)
    truth = finish_by_interpolation(crops, grids, torch.float32)
    finished = finish_crops(crops, grids, dtype)
    assert finished.dtype == dtype
    # half a unit in the last place of bfloat16 between 4 and 8: 2⁻⁷ · 2
    torch.testing.assert_close(finished.float(), truth, rtol=0, atol=1e-6 if dtype == torch.float32 else 0.0157)


def test_crops_are_cut_at_no_place_of_the_table(monkeypatch: pytest.MonkeyPatch):
    crops = torch.randint(0, 256, (7, 3, 28, 28), dtype=torch.uint8)
    whole = finish_crops(crops, [(2, 2), (1, 3)], torch.float32)
    monkeypatch.setattr("phi3v_dist.documents.crops._VALUES_AT_ONCE", 2 * 3 * 28 * 28)
    monkeypatch.setattr("phi3v_dist.documents.crops._PICTURES_AT_ONCE", 1)
    assert torch.equal(finish_crops(crops, [(2, 2), (1, 3)], torch.float32), whole)


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (1, 1), (8000, 3), (2, 20_000)])
@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_pictures_of_extreme_shape_work(size: tuple[int, int], num_crops: int):
    """Where the official processor would resize to a side of 0 pixels and fail, one line of the picture is left."""
    crops, (rows, columns) = hd_transform(Image.new("RGB", size), num_crops, 56)
    assert (rows, columns) == crop_grid(*size, num_crops, 56)
    assert 1 <= rows * columns <= num_crops and len(crops) == rows * columns
    assert (crops == 0).any()
    finished = finish_crops(torch.from_numpy(crops), [(rows, columns)], torch.float32)
    assert finished.isfinite().all()
    assert image_tokens(*size, num_crops, 2) == grid_tokens(rows, columns, 2)


def test_picture_too_long_for_the_official_processor_is_a_line_on_white():
    crops, grid = hd_transform(Image.new("RGB", (3000, 1)), 4, 336)
    assert official_grid(3000, 1, 4, 336)[2] == 0
    assert grid == (1, 4)
    assert (crops == 0).any() and (crops == 255).any()


def test_tall_picture_is_padded_left_and_right():
    crops, grid = hd_transform(Image.new("RGB", (10, 100)), 4, 56)
    assert grid == (4, 1)
    assert (crops[:, :, :, 0] == 255).all() and (crops[:, :, :, 27] == 0).all()


def test_pictures_finished_together_equal_pictures_finished_alone():
    sizes = [(100, 40), (40, 100), (30, 30), (100, 41), (33, 31), (31, 33)] * 8
    parts = [hd_transform(drawn_picture(*size), 4, 56) for size in sizes]
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
