"""LongRoPE against the official factors' published results (facts phi3v.md, 2.1) and a formula in float64."""

import json
import math

import numpy as np
import pytest
import torch
from formula import FOLDER

from phi3v_dist.model.configuration import Phi3VConfig
from phi3v_dist.model.rope import inverse_frequencies, long_tokens, rope_cos_sin, rope_scale

CPU = torch.device("cpu")
# Official factors at both ends (config.json of microsoft/Phi-3-vision-128k-instruct and Phi-3.5-vision-instruct).
ENDS = {
    "phi3v": {"short": (1.05, 1.05, 3.049999999999997), "long": (1.0299999713897705, 1.0499999523162842, 64.8100128)},
    "phi35v": {"short": (1.08, 1.1, 8.999999999999853), "long": (1.0800000429153442, 1.1100000143051147, 64.83999634)},
}
# inv_freq [0], [1], [47] as the official code computes them.
SPOTS = {
    ("phi3v", False): (0.95238101, 0.78609926, 3.9722214e-05),
    ("phi3v", True): (0.97087383, 0.78609926, 1.8693523e-06),
    ("phi35v", False): (0.92592591, 0.75036740, 1.3461416e-05),
    ("phi35v", True): (0.92592591, 0.74360728, 1.8684879e-06),
}


def official_config(version: str) -> Phi3VConfig:
    """Head width 96 as the official one; of the factors the three that are checked, ones between them."""
    ends = {name: [first, second, *[1.0] * 45, last] for name, (first, second, last) in ENDS[version].items()}
    rope = {"type": "su", "short_factor": ends["short"], "long_factor": ends["long"]}
    return Phi3VConfig(model_type="phi3_v", rope_scaling=rope)


def small_config(**changes: object) -> Phi3VConfig:
    rope = {"type": "su", "short_factor": [1.0, 1.5, 2.0], "long_factor": [1.0, 4.0, 30.0]}
    raw = {"hidden_size": 12, "num_attention_heads": 2, "rope_theta": 100.0, "rope_scaling": rope}
    sizes = {"original_max_position_embeddings": 8, "max_position_embeddings": 64}
    return Phi3VConfig(model_type="phi3_v", **(raw | sizes | changes))


@pytest.mark.parametrize(("version", "long"), SPOTS)
def test_frequencies_equal_what_the_official_code_computes(version: str, long: bool) -> None:
    found = inverse_frequencies(official_config(version), long=long, device=CPU)
    assert (found.shape, found.dtype) == ((48,), torch.float32)
    np.testing.assert_allclose(found[[0, 1, 47]].numpy(), SPOTS[version, long], rtol=1e-7)


@pytest.mark.parametrize("version", ["phi3v", "phi35v"])
def test_golden_factors_are_used_in_their_order(version: str) -> None:
    raw = json.loads((FOLDER / f"config_{version}.json").read_text(encoding="utf-8"))
    for long, name in ((False, "short_factor"), (True, "long_factor")):
        factors = np.array(raw["rope_scaling"][name])
        expected = 1 / (factors * raw["rope_theta"] ** (np.arange(len(factors)) / len(factors)))
        found = inverse_frequencies(Phi3VConfig(**raw), long=long, device=CPU)
        np.testing.assert_allclose(found.numpy(), expected, rtol=5e-7)


def test_scale_is_the_official_number_for_128k_over_4k() -> None:
    assert rope_scale(official_config("phi3v")) == pytest.approx(1.1902380714238083, rel=1e-15)


@pytest.mark.parametrize("changes", [{"max_position_embeddings": 8}, {"rope_scaling": None}])
def test_scale_is_one_where_nothing_is_stretched(changes: dict[str, object]) -> None:
    assert rope_scale(small_config(**changes)) == 1.0


def test_without_factors_it_is_plain_rope() -> None:
    config = small_config(rope_scaling=None)
    for long in (False, True):
        found = inverse_frequencies(config, long=long, device=CPU)
        np.testing.assert_allclose(found.numpy(), [1, 100 ** (-1 / 3), 100 ** (-2 / 3)], rtol=1e-6)


def test_each_document_chooses_by_its_own_length_and_the_border_is_still_short() -> None:
    lengths = torch.tensor([1, 8, 9, 60])
    assert long_tokens(lengths, small_config(), "per_document").tolist() == [False, False, True, True]
    assert long_tokens(lengths, small_config(), "short").tolist() == [False] * 4
    assert long_tokens(lengths, small_config(), "long").tolist() == [True] * 4


def test_angles_equal_the_formula_token_by_token() -> None:
    positions, long = [0, 1, 7, 0, 5, 40], [False, False, False, True, True, True]
    cos, sin = rope_cos_sin(torch.tensor(positions), torch.tensor(long), small_config(), torch.float32)
    scale = math.sqrt(1 + math.log(8) / math.log(8))
    for token, (position, is_long) in enumerate(zip(positions, long, strict=True)):
        factors = [1.0, 4.0, 30.0] if is_long else [1.0, 1.5, 2.0]
        angles = [position / (factor * 100 ** (2 * i / 6)) for i, factor in enumerate(factors)] * 2
        np.testing.assert_allclose(cos[token].numpy(), [scale * math.cos(a) for a in angles], atol=1e-5)
        np.testing.assert_allclose(sin[token].numpy(), [scale * math.sin(a) for a in angles], atol=1e-5)


def test_rounding_to_bf16_comes_last() -> None:
    positions, long = torch.arange(60), torch.zeros(60, dtype=torch.bool)
    exact = rope_cos_sin(positions, long, small_config(), torch.float32)
    rounded = rope_cos_sin(positions, long, small_config(), torch.bfloat16)
    for one, other in zip(exact, rounded, strict=True):
        assert torch.equal(one.bfloat16(), other)
