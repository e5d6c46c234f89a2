"""Batches of unlike prompts, with several pictures each, generate what each does alone and without a cache."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from formula import MANIFEST, golden_model, golden_values, pixels_of
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist.documents.crops import grid_tokens
from phi3v_dist.model.demo import CROP_SIZE, demo_config, demo_model
from phi3v_dist.model.generation import generate

VOCABULARY = 64
BORDER = 24
GRIDS = st.tuples(st.integers(1, 2), st.integers(1, 3))


@dataclass
class Prompt:
    input_ids: np.ndarray
    grids: list
    pixels: torch.Tensor | None = None


def with_cache(model, batch, count):
    """Tokens (B, count) and logits (B, count, vocabulary) of ``generate``."""
    pictures = [prompt.pixels for prompt in batch if prompt.pixels is not None]
    logits = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: logits.append(output))
    tokens = generate(model, batch, torch.cat(pictures) if pictures else None, count, end_ids=())
    hook.remove()
    return tokens, torch.stack(logits, dim=1)


def without_cache(model, prompt, count):
    """The same of one prompt, the whole sequence computed anew for each token."""
    ids, logits = torch.from_numpy(prompt.input_ids).long(), []
    for _ in range(count):
        with torch.no_grad():
            hidden = model.hidden_states(
                input_ids=ids,
                positions=torch.arange(len(ids)),
                cu_seqlens=torch.tensor([0, len(ids)], dtype=torch.int32),
                pixels=prompt.pixels,
                grids=prompt.grids,
            )
            logits.append(model.lm_head(hidden[-1]))
            ids = torch.cat((ids, logits[-1].argmax()[None]))
    return ids[len(prompt.input_ids) :].tolist(), torch.stack(logits)


def test_two_pictures_in_one_prompt_generate_what_recomputation_does():
    model, values = golden_model(), golden_values()
    grids = [tuple(grid) for grid in MANIFEST["phi3v"]["cases"]["two_images"]["grids"]]
    length = int((values["two_images.labels"] != -100).nonzero()[0])
    prompt = Prompt(values["two_images.input_ids"][:length].numpy(), grids, pixels_of("two_images", grids))
    expected, logits = without_cache(model, prompt, 5)
    found, found_logits = with_cache(model, [prompt], 5)
    assert found == [expected]
    torch.testing.assert_close(found_logits[0], logits, atol=5e-5, rtol=0)
    mirrored = Prompt(prompt.input_ids, grids, torch.cat((prompt.pixels[:3], prompt.pixels[3:].flip(-1))))
    other = with_cache(model, [mirrored], 1)[1]
    assert (other[0, 0] - logits[0]).abs().max() > 1e-2  # the second picture is seen


@lru_cache(maxsize=1)
def small_model():
    """The demo model in float64, so that rounding decides no token; answers cross its RoPE border."""
    config = demo_config(VOCABULARY, {"<s>": 1, "<|endoftext|>": 0}) | {"original_max_position_embeddings": BORDER}
    return demo_model(config, seed=5).double().eval()


@st.composite
def prompts(draw):
    """Text, pictures and text between them, in any number and order."""
    ids, grids = [1], []
    for grid in draw(st.lists(st.none() | GRIDS, min_size=1, max_size=4)):
        if grid is None:
            ids += draw(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=9))
        else:
            grids.append(grid)
            ids += [-len(grids)] * int(grid_tokens(*grid, CROP_SIZE // 28)) + [1]
    seed = draw(st.integers(0, 2**31))
    crops = sum(1 + rows * columns for rows, columns in grids)
    noise = torch.Generator().manual_seed(seed)
    pixels = torch.randn(crops, 3, CROP_SIZE, CROP_SIZE, generator=noise, dtype=torch.float64) if grids else None
    return Prompt(np.array(ids), grids, pixels)


@settings(max_examples=12, deadline=None)
@given(st.lists(prompts(), min_size=1, max_size=4))
def test_a_batch_generates_what_each_prompt_does_alone_and_without_a_cache(batch):
    model = small_model()
    tokens, logits = with_cache(model, batch, 5)
    for place, prompt in enumerate(batch):
        for found, found_logits in ((tokens[place], logits[place]), without_cache(model, prompt, 5)):
            alone, alone_logits = with_cache(model, [prompt], 5)
            assert found == alone[0]
            torch.testing.assert_close(found_logits, alone_logits[0], atol=1e-9, rtol=0)


@settings(max_examples=6, deadline=None)
@given(st.lists(prompts(), min_size=2, max_size=4), st.integers(1, VOCABULARY - 1))
def test_a_prompt_that_ends_early_leaves_the_others_as_they_were(batch, end):
    model = small_model()
    pictures = [prompt.pixels for prompt in batch if prompt.pixels is not None]
    together = generate(model, batch, torch.cat(pictures) if pictures else None, 8, end_ids=[end])
    for answer, prompt in zip(together, batch, strict=True):
        whole = generate(model, [prompt], prompt.pixels, 8, end_ids=())[0]
        assert answer == whole[: whole.index(end)] if end in whole else answer == whole
