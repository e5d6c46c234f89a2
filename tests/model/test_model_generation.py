"""Greedy generation against the official code (without a cache, which is right across the RoPE border too)."""

from dataclasses import dataclass

import numpy as np
import pytest
from formula import MANIFEST, golden_model, golden_values, pixels_of

from phi3v_dist.model import generation
from phi3v_dist.model.generation import generate


@dataclass
class Prompt:
    input_ids: np.ndarray
    grids: list


@pytest.fixture(scope="module", params=["phi3v", "phi35v"])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def model(version):
    return golden_model(version)


@pytest.fixture(scope="module")
def official(version):
    return golden_values(version)


@pytest.fixture(scope="module")
def values():
    """Prompts: those of both versions are the same, and stand in the first one's file."""
    return golden_values()


def prompt_of(case, values):
    length = int((values[f"{case}.labels"] != -100).nonzero()[0])  # the prompt ends where supervision begins
    grids = [tuple(g) for g in MANIFEST["phi3v"]["cases"][case].get("grids", [])]
    return Prompt(values[f"{case}.input_ids"][:length].numpy(), grids)


def test_prompts_of_unequal_length_generate_the_official_tokens_together(model, values, official):
    prompts = [prompt_of(case, values) for case in ("one_1x2", "text_short")]
    answers = generate(model, prompts, pixels_of("one_1x2", [[1, 2]]), 16, end_ids=())
    assert answers[0] == official["generate.one_1x2.tokens"].tolist()
    assert answers[1] == official["generate.text_short.tokens"].tolist()


def test_generation_across_the_rope_border_equals_the_run_without_cache(model, official):
    prompt = Prompt(official["generate.cross_4096.prompt"].numpy(), [])
    answer = generate(model, [prompt], None, 16, end_ids=())
    assert answer[0] == official["generate.cross_4096.tokens_without_cache"].tolist()


def test_answer_is_cut_before_its_end_token_and_ranks_are_asked_each_token(model, values, official):
    prompt = prompt_of("text_short", values)
    told = official["generate.text_short.tokens"].tolist()
    asked = []
    answer = generate(model, [prompt], None, 16, [told[3]], lambda done: asked.append(done) or done)
    first = told.index(told[3])
    assert answer[0] == told[:first]
    no_crossing = [True]  # asked once before the first token
    assert asked == no_crossing + [False] * first + [True]


def test_a_rank_that_crosses_makes_every_rank_read_again(model, values):
    """What another rank says through ``everyone_done`` decides, and the answer stays the same."""
    prompt = prompt_of("text_short", values)
    model.config.original_max_position_embeddings = len(prompt.input_ids) + 8  # this rank would cross at token 9
    try:
        alone = generate(model, [prompt], None, 6, end_ids=())
        read = []
        original = generation._read
        generation._read = lambda *arguments: read.append(1) or original(*arguments)
        together = generate(model, [prompt], None, 6, (), lambda done: False)
    finally:
        generation._read = original
        model.config.original_max_position_embeddings = 4096
    assert together == alone
    assert len(read) == 6  # here the other rank says at each token that it crosses
