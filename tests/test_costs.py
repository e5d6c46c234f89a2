"""Memory against the facts' table; FLOPs against PyTorch's counter and known numbers of the real model."""

import dataclasses

import pytest
import torch
from formula import golden_config, golden_model
from hypothesis import given
from hypothesis import strategies as st
from official_layout import TOTAL_BYTES
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from phi3v_dist.costs import (
    PARAMETERS,
    ModelSizes,
    attention_flops,
    crop_flops,
    image_token_flops,
    pack_flops,
    supervised_token_flops,
    token_flops,
    training_memory,
)
from phi3v_dist.model import Phi3VConfig
from phi3v_dist.model.phi3v import model_sizes

LENGTHS, GRIDS, SUPERVISED = [700, 281, 40], [(1, 1)], 900
CROPS, IMAGE_TOKENS = 2, 313


def test_spot_values_of_the_real_model() -> None:
    """Parameters taken from the official weight shapes (facts phi3v.md, 7): two FLOPs per weight and token."""
    real = ModelSizes()
    layers = 32 * (9216 * 3072 + 3072 * 3072 + 16384 * 3072 + 3072 * 8192)
    assert token_flops(real) == 2 * layers == pytest.approx(7.248e9, rel=1e-4)
    assert supervised_token_flops(real) == pytest.approx(0.197e9, rel=1e-3)
    assert attention_flops(real, [10]) == 393_216 * 100 / 2
    assert crop_flops(real) == pytest.approx(366.0e9, rel=1e-3)
    assert image_token_flops(real) == pytest.approx(0.0440e9, rel=2e-3)


def test_training_of_a_pack_of_8k_costs_what_the_bench_expects() -> None:
    """perf.md, 5: 8K tokens in 3 documents with 51 crops: 249 TF, 5 % attention, 22 % vision."""
    flops = pack_flops(ModelSizes(), [2731, 2731, 2730], 100, 51, 51 * 150)
    assert flops.training() == pytest.approx(249e12, rel=0.02)
    assert flops.attention / flops.forward == pytest.approx(0.05, abs=0.005)
    assert (flops.crops + flops.image_tokens) / flops.forward == pytest.approx(0.22, abs=0.015)


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=5), st.integers(0, 99), st.integers(0, 99))
def test_a_pack_costs_the_sum_of_its_documents(lengths: list[int], supervised: int, crops: int) -> None:
    sizes = ModelSizes()
    alone = [pack_flops(sizes, [length], supervised, crops, 0).training() for length in lengths]
    together = pack_flops(sizes, lengths, supervised * len(lengths), crops * len(lengths), 0)
    assert together.training() == pytest.approx(sum(alone), rel=1e-12)


def test_a_model_knows_its_sizes() -> None:
    assert model_sizes(Phi3VConfig()) == ModelSizes()
    vision = golden_config("phi3v").vision()
    golden = ModelSizes(192, 256, 2, 192, 512, vision.hidden_size, vision.intermediate_size, 2, 336, 14)
    assert model_sizes(golden_config("phi3v")) == golden


def counted(model, *, backward: bool) -> float:
    """FLOPs of a pack of three documents, one with a picture, as PyTorch counts matrix products.

    The counter doesn't know CPU's flash attention, so attention is done with plain matrix products. The lengths are so
    unlike that each document is attended to by itself, without padding.
    """
    total = sum(LENGTHS)
    ids = torch.arange(total) % 500
    ids[5 : 5 + IMAGE_TOKENS] = -1
    pack = {
        "input_ids": ids,
        "positions": torch.cat([torch.arange(length) for length in LENGTHS]),
        "cu_seqlens": torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32),
        "pixels": torch.zeros(CROPS, 3, 336, 336, requires_grad=True),
        "grids": GRIDS,
        "supervised": torch.arange(total - SUPERVISED, total),
        "targets": torch.zeros(SUPERVISED, dtype=torch.long),
    }
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = model(**pack)
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def model():
    model = golden_model()
    model.freeze(train_vision=True)
    return model


@pytest.fixture(scope="module")
def flops():
    """By formula, but with all of the attention matrix, as it is computed and counted here."""
    flops = pack_flops(model_sizes(golden_config("phi3v")), LENGTHS, SUPERVISED, CROPS, IMAGE_TOKENS)
    return dataclasses.replace(flops, attention=2 * flops.attention)


def test_forward_is_what_pytorchs_counter_says(model, flops) -> None:
    assert flops.forward == pytest.approx(counted(model, backward=False), rel=0.001)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_is_within_two_percent_of_pytorchs_counter(model, flops, checkpointing: bool) -> None:
    model.recompute_activations(checkpointing)
    found = counted(model, backward=True)
    model.recompute_activations(False)
    # Checkpointing stops each unit before its last product, so it does a little less again than the formula says.
    again = flops.recomputed(activation_checkpointing=checkpointing, chunked_loss=True)
    assert flops.training() + again == pytest.approx(found, rel=0.02)
    assert again > 0.2 * flops.forward if checkpointing else again == flops.head


def test_each_part_is_counted(model, flops) -> None:
    """Also the text's parts without CLIP, which is most of this small model."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model.vision_embed_tokens(torch.zeros(CROPS, 3, 336, 336), GRIDS)
    vision = counter.get_total_flops()
    assert flops.crops + flops.image_tokens == pytest.approx(vision, rel=0.001)
    text = counted(model, backward=False) - vision
    assert flops.layers + flops.attention + flops.head == pytest.approx(text, rel=0.001)
    assert min(flops.layers, flops.attention, flops.head) > 0.02 * text


def test_a_frozen_vision_part_runs_forward_alone() -> None:
    flops = pack_flops(ModelSizes(), [100], 10, 3, 50)
    assert flops.training(train_vision=False) == flops.training() - 2 * (flops.crops + flops.image_tokens)


@pytest.mark.parametrize(
    ("ranks", "pack_tokens", "gigabytes"),
    [(1, 32768, 84), (1, 131072, 125), (8, 32768, 26), (8, 131072, 67), (16, 32768, 22), (64, 131072, 60)],
)
def test_memory_is_the_table_of_the_facts_with_gradients_in_float32(ranks, pack_tokens, gigabytes) -> None:
    """perf.md, 4: the table counts bf16 gradients, and 8.3 GB ÷ ranks more for float32. Its entries are rounded."""
    memory = training_memory(ranks, pack_tokens, round(pack_tokens * 51 / 8192))
    assert memory.total / 1e9 == pytest.approx(gigabytes + 8.3 / ranks, abs=1)


def test_a_short_packs_peak_is_the_vision_towers() -> None:
    """16 crops computed again together (425 MB each, all kept) are more than a decoder layer over 8K tokens."""
    memory = training_memory(8, 8192, 51)
    assert memory.vision_peak == 16 * 425e6 > memory.decoder
    assert memory.total == pytest.approx(9.3e9 + 4e9 + 0.6e9 + 6.8e9, rel=0.01)


def test_weights_that_stay_gathered_cost_one_copy_of_the_model() -> None:
    assert PARAMETERS * 2 == TOTAL_BYTES
    more = training_memory(8, 32768, 0, keep_gathered=True).total - training_memory(8, 32768, 0).total
    assert more == TOTAL_BYTES
    assert training_memory(1, 32768, 0, keep_gathered=True) == training_memory(1, 32768, 0)
