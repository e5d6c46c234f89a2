"""Attention inside documents against one softmax over the whole pack with a block-diagonal mask, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phi3v_dist.errors import HardwareError
from phi3v_dist.model import attention
from phi3v_dist.model.attention import KERNELS, Borders, attend_in_pack, choose_kernel, sdpa_per_document
from phi3v_dist.model.configuration import HANDED_IN_ATTENTION

SCALE = 0.37


def borders_of(lengths: list[int]) -> Borders:
    ends = torch.tensor(lengths).cumsum(0)
    return Borders.of(torch.cat((torch.zeros(1), ends)).int())


def plain(
    q_TNH: torch.Tensor, k_TNH: torch.Tensor, v_TNH: torch.Tensor, lengths: list[int], scale: float
) -> torch.Tensor:
    """Token i sees token j if both are of one document and j is not after i."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(document))
    seen = (document[:, None] == document[None, :]) & (place[:, None] >= place[None, :])
    scores = torch.einsum("tnh,snh->nts", q_TNH, k_TNH) * scale
    weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
    return torch.einsum("nts,snh->tnh", weights, v_TNH)


def random_qkv(tokens: int, heads: int = 2, width: int = 4, kv_heads: int | None = None) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    counts = (heads, kv_heads or heads, kv_heads or heads)
    return [torch.randn(tokens, count, width, generator=generator, dtype=torch.float64) for count in counts]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=7))
def test_sdpa_equals_the_plain_softmax_in_values_and_gradients(lengths: list[int]) -> None:
    inputs = [x.requires_grad_() for x in random_qkv(sum(lengths))]
    found, expected = sdpa_per_document(*inputs, borders_of(lengths), SCALE), plain(*inputs, lengths, SCALE)
    torch.testing.assert_close(found, expected)
    weights = torch.arange(found.numel(), dtype=torch.float64).reshape(found.shape).cos()
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("lengths", "calls"), [([5, 6, 5], 1), ([4], 1), ([1, 3], 1), ([1, 1, 1, 12], 4), ([20, 1, 1], 3)]
)
def test_like_lengths_share_a_call_and_unlike_ones_get_one_each(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], calls: int
) -> None:
    shapes = []
    causal = attention._causal
    monkeypatch.setattr(attention, "_causal", lambda q, *rest: shapes.append(q.shape) or causal(q, *rest))
    inputs = random_qkv(sum(lengths))
    found = sdpa_per_document(*inputs, borders_of(lengths), SCALE)
    assert len(shapes) == calls
    assert sum(shape[0] * shape[1] for shape in shapes) <= 2 * sum(lengths)
    torch.testing.assert_close(found, plain(*inputs, lengths, SCALE))


@pytest.mark.parametrize("lengths", [[3, 4, 5], [1, 1, 9]])
def test_a_document_does_not_feel_its_neighbours(lengths: list[int]) -> None:
    inputs = random_qkv(sum(lengths))
    before = sdpa_per_document(*inputs, borders_of(lengths), SCALE)
    for x in inputs:
        x[lengths[0] :] = 1e6
    after = sdpa_per_document(*inputs, borders_of(lengths), SCALE)
    assert torch.equal(before[: lengths[0]], after[: lengths[0]])


def test_borders_read_the_lengths_to_the_host() -> None:
    borders = borders_of([3, 1, 5])
    assert borders.lengths == (3, 1, 5)
    assert (borders.cu_seqlens.tolist(), borders.cu_seqlens.dtype) == ([0, 3, 4, 9], torch.int32)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_layers_of_transformers_reach_the_kernel_also_with_grouped_heads(kv_heads: int) -> None:
    lengths = [3, 5]
    q, k, v = random_qkv(8, heads=4, kv_heads=kv_heads)
    heads_first = [x.transpose(0, 1)[None] for x in (q, k, v)]
    function = ALL_ATTENTION_FUNCTIONS[HANDED_IN_ATTENTION]
    attend = attend_in_pack("sdpa", borders_of(lengths))
    output, weights = function(torch.nn.Module(), *heads_first, None, scaling=SCALE, attend=attend, dropout=0.0)
    # Head n of the queries looks at head n // group of keys and values (GQA, arXiv 2305.13245).
    group = [n // (4 // kv_heads) for n in range(4)]
    torch.testing.assert_close(output, plain(q, k[:, group], v[:, group], lengths, SCALE)[None])
    assert weights is None


def test_auto_on_a_cpu_is_sdpa_and_tells_why_not_the_others() -> None:
    name, reason = choose_kernel("auto", "cpu", torch.bfloat16)
    assert name == "sdpa"
    assert "flash_attn: needs a CUDA device, this is cpu" in reason
    assert "varlen: needs a CUDA device, this is cpu" in reason


def test_auto_in_fp32_on_cuda_is_sdpa_since_flash_kernels_are_half_precision() -> None:
    name, reason = choose_kernel("auto", "cuda", torch.float32)
    assert name == "sdpa"
    assert "needs bf16 or fp16, this is torch.float32" in reason


@pytest.mark.parametrize("name", ["varlen", "flash_attn"])
def test_a_kernel_that_cannot_run_here_is_refused(name: str) -> None:
    with pytest.raises(
        HardwareError, match=r"^model\.attention: .*needs a CUDA device.*model\.attention=auto"
    ) as caught:
        choose_kernel(name, "cpu", torch.bfloat16)
    assert caught.value.value == name


def test_a_kernel_that_was_asked_for_and_runs_is_taken() -> None:
    assert choose_kernel("sdpa", "cpu", torch.float32) == ("sdpa", "asked for by model.attention")


def test_the_option_offers_exactly_the_kernels_there_are() -> None:
    from phi3v_dist.config.options import ModelOptions

    allowed = ModelOptions.model_json_schema()["properties"]["attention"]["enum"]
    assert set(allowed) == {"auto", *KERNELS}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash kernels need a CUDA device")
@pytest.mark.parametrize("name", ["varlen", "flash_attn"])
def test_flash_kernels_equal_the_plain_softmax(name: str) -> None:
    try:
        choose_kernel(name, "cuda", torch.bfloat16)
    except HardwareError as error:
        pytest.skip(str(error))
    lengths = [37, 1, 200, 64]
    inputs = [x.to("cuda", torch.bfloat16) for x in random_qkv(sum(lengths), heads=4, width=96)]
    borders = borders_of(lengths)
    borders = Borders(borders.cu_seqlens.cuda(), borders.lengths)
    found = KERNELS[name](*inputs, borders, SCALE)
    expected = plain(*(x.cpu().double() for x in inputs), lengths, SCALE)
    torch.testing.assert_close(found.cpu().double(), expected, atol=2e-2, rtol=2e-2)
