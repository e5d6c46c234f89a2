"""Patches and image tokens against the steps of the official HD transform, spelled out (facts phi3v.md, section 4)."""

import numpy as np
import pytest
import torch
from formula import MANIFEST, golden_config, golden_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from phi3v_dist.model.vision import ImageEmbedding, merge_patches, token_index

GRIDS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4)


def merged_one_by_one(features: torch.Tensor) -> torch.Tensor:
    """Patches (2i, 2j), (2i, 2j+1), (2i+1, 2j), (2i+1, 2j+1) of each crop, one after the other."""
    crops, patches, width = features.shape
    side = round(patches**0.5)
    square = features.reshape(crops, side, side, width)
    rows = []
    for crop in square:
        for i in range(0, side, 2):
            for j in range(0, side, 2):
                rows.append(torch.cat((crop[i, j], crop[i, j + 1], crop[i + 1, j], crop[i + 1, j + 1])))
    return torch.stack(rows).reshape(crops, patches // 4, 4 * width)


def hd_transform(
    merged: torch.Tensor, rows: int, columns: int, sub_gn: torch.Tensor, glb_gn: torch.Tensor
) -> torch.Tensor:
    """Steps 2 to 5 for one picture: ``merged`` (1 + rows · columns, side², width), the global view first."""
    side, width = round(merged.shape[1] ** 0.5), merged.shape[2]

    def with_line_ends(crops: torch.Tensor, h: int, w: int) -> torch.Tensor:
        tiled = crops.reshape(h, w, side, side, width).permute(0, 2, 1, 3, 4).reshape(h * side, w * side, width)
        ends = sub_gn.reshape(1, 1, width).expand(h * side, 1, width)
        return torch.cat((tiled, ends), dim=1).reshape(-1, width)

    return torch.cat(
        (with_line_ends(merged[1:], rows, columns), glb_gn.reshape(1, width), with_line_ends(merged[:1], 1, 1))
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_each_four_patches_become_one_in_the_official_order(crops: int, half: int, width: int) -> None:
    features = torch.arange(crops * 4 * half * half * width).float().reshape(crops, 4 * half * half, width)
    assert torch.equal(merge_patches(features), merged_one_by_one(features))


@settings(max_examples=60, deadline=None)
@given(GRIDS, st.integers(1, 4))
def test_index_puts_every_token_where_the_official_steps_put_it(grids: list[tuple[int, int]], side: int) -> None:
    counts = [1 + rows * columns for rows, columns in grids]
    merged = torch.arange(sum(counts) * side * side).float().reshape(sum(counts), side * side, 1) + 10
    sub_gn, glb_gn = torch.tensor([-1.0]), torch.tensor([-2.0])
    expected = torch.cat(
        [
            hd_transform(crops, rows, columns, sub_gn, glb_gn)
            for crops, (rows, columns) in zip(merged.split(counts), grids, strict=True)
        ]
    )
    table = torch.cat((sub_gn[None], glb_gn[None], merged.reshape(-1, 1)))
    assert torch.equal(table[torch.from_numpy(token_index(tuple(grids), side))], expected)


@given(st.integers(1, 16), st.integers(1, 16))
def test_a_picture_has_the_official_number_of_tokens_and_uses_each_patch_once(rows: int, columns: int) -> None:
    index = token_index(((rows, columns),), 12)
    assert len(index) == 144 * rows * columns + 12 * rows + 157
    assert index.dtype == np.int64
    patches = np.sort(index[index >= 2])
    assert np.array_equal(patches, np.arange(2, 2 + 144 * (1 + rows * columns)))
    assert (index == 1).sum() == 1


@pytest.fixture(scope="module")
def embedding() -> ImageEmbedding:
    return golden_model().model.vision_embed_tokens


def test_the_whole_way_equals_merge_transform_and_projector_one_after_the_other(embedding: ImageEmbedding) -> None:
    grids = [(2, 1), (1, 1)]
    pixels = torch.randn(5, 3, 336, 336, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        merged = merged_one_by_one(embedding.img_processor(pixels))
        pictures = [
            hd_transform(part, rows, columns, embedding.sub_GN, embedding.glb_GN)
            for part, (rows, columns) in zip(merged.split([3, 2]), grids, strict=True)
        ]
        expected = embedding.img_projection(torch.cat(pictures))
        torch.testing.assert_close(embedding(pixels, grids), expected, atol=1e-5, rtol=1e-5)


def test_features_are_the_last_but_one_hidden_state_of_clip_without_the_class_token(embedding: ImageEmbedding) -> None:
    pixels = torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(1))
    clip = embedding.img_processor.vision_model
    with torch.no_grad():
        states = clip(pixels, output_hidden_states=True).hidden_states
        torch.testing.assert_close(embedding.img_processor(pixels), states[-2][:, 1:])
    assert len(states) == MANIFEST["clip"]["num_hidden_layers"] + 1


def test_a_picture_does_not_depend_on_the_one_before_it(embedding: ImageEmbedding) -> None:
    pixels = torch.randn(5, 3, 336, 336, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        alone, both = embedding(pixels[2:], [(1, 2)]), embedding(pixels, [(1, 1), (1, 2)])
    torch.testing.assert_close(both[-len(alone) :], alone, atol=1e-5, rtol=1e-5)


def test_crops_that_do_not_fit_the_grids_are_our_own_mistake(embedding: ImageEmbedding) -> None:
    with pytest.raises(AssertionError, match="disagree"), torch.no_grad():
        embedding(torch.zeros(3, 3, 336, 336), [(1, 1)])


def test_never_trained_modules_are_exactly_those_without_a_gradient(embedding: ImageEmbedding) -> None:
    tower = ImageEmbedding(golden_config("phi3v")).img_processor
    pixels = torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(3))
    tower(pixels).sum().backward()
    without = {name for name, parameter in tower.named_parameters() if parameter.grad is None}
    never = {id(parameter) for module in tower.never_trained() for parameter in module.parameters()}
    assert without == {name for name, parameter in tower.named_parameters() if id(parameter) in never}
    assert len(without) == 18  # 16 of the last layer, 2 of post_layernorm


def test_the_tower_attends_in_one_batched_call_per_layer(embedding: ImageEmbedding) -> None:
    """All crops at once through PyTorch's own kernel, no mask, all patches see all: not crop by crop, not by hand."""
    calls = []

    class Recorded(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.scaled_dot_product_attention:
                calls.append((args[0].shape, kwargs))
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Recorded():
        embedding.img_processor(torch.zeros(3, 3, 336, 336))
    heads = embedding.img_processor.vision_model.config.num_attention_heads
    assert [shape for shape, _ in calls] == [(3, heads, 577, 64)] * (MANIFEST["clip"]["num_hidden_layers"] - 1)
    assert all(call["attn_mask"] is None and not call["is_causal"] and not call["dropout_p"] for _, call in calls)
