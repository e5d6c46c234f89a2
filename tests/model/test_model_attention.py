"""Attention inside documents against one softmax over the whole pack with a block-diagonal mask, in float64."""

import inspect
import itertools
import math
import sys
import types
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phi3v_dist.errors import HardwareError
from phi3v_dist.model import attention
from phi3v_dist.model.attention import (
    KERNELS,
    Borders,
    _few_tokens,
    attend_in_pack,
    choose_kernel,
    sdpa_per_document,
)
from phi3v_dist.model.configuration import HANDED_IN_ATTENTION
from phi3v_dist.model.kernels import trial

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


@pytest.mark.parametrize("name", ["flash_attn_3", "flash_attn_4", "flash_attn", "varlen"])
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


def flash_attn_3_function(  # hopper/flash_attn_interface.py: the parameters up to the ones we name
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
    seqused_q=None, seqused_k=None, softmax_scale=None, causal=False,
):  # fmt: skip
    return checked(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal)


def flash_attn_4_function(  # flash_attn/cute/interface.py of flash-attn-4 4.0.0b36
    q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, min_seqlen_k=None,
    seqused_q=None, seqused_k=None, gather_kv_indices=None, page_table=None, softmax_scale=None, causal=False,
):  # fmt: skip
    assert qv is None
    out = checked(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal)
    return out, "logarithms of the softmax sums"


def flash_attn_2_function(  # flash_attn/flash_attn_interface.py of flash-attn 2.8
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
):  # fmt: skip
    assert dropout_p == 0
    return checked(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal)


def checked(q, k, v, cu_q, cu_k, longest_q, longest_k, scale, causal):
    assert causal and cu_q is cu_k and cu_q.dtype == torch.int32
    lengths = cu_q.diff().tolist()
    assert longest_q == longest_k == max(lengths)
    return plain(q, k, v, lengths, scale)


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("flash_attn_3", "flash_attn_interface", flash_attn_3_function),
        ("flash_attn_4", "flash_attn.cute", flash_attn_4_function),
        ("flash_attn", "flash_attn", flash_attn_2_function),
    ],
)
def test_each_flash_package_is_called_as_it_declares(monkeypatch, name: str, module: str, function) -> None:
    for part in {module, module.partition(".")[0]}:
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    sys.modules[module].flash_attn_varlen_func = function
    inputs = random_qkv(9)
    torch.testing.assert_close(KERNELS[name](*inputs, borders_of([4, 5]), SCALE), plain(*inputs, [4, 5], SCALE))


def test_varlen_is_called_as_pytorch_declares(monkeypatch) -> None:
    from torch.nn.attention import varlen

    def stand_in(*args, **kwargs):
        call = signature.bind(*args, **kwargs).arguments
        assert call["window_size"] == (-1, 0)  # causal
        return checked(
            *(call[name] for name in ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k", "scale")), True
        )

    signature = inspect.signature(varlen.varlen_attn)
    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    inputs = random_qkv(9)
    found = KERNELS["varlen"](*inputs, borders_of([4, 5]), SCALE)
    torch.testing.assert_close(found, plain(*inputs, [4, 5], SCALE))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_trial_accepts_the_plain_softmax_and_refuses_one_that_sees_all(dtype: torch.dtype) -> None:
    def all_see_all(q, k, v, borders, scale):
        weights = (torch.einsum("tnh,snh->nts", q, k) * scale).softmax(-1)
        return torch.einsum("nts,snh->tnh", weights, v)

    def outcome(kernel):
        return trial(*(partial(_few_tokens, one, "cpu", dtype) for one in (kernel, sdpa_per_document)))

    assert outcome(lambda q, k, v, borders, scale: plain(q, k, v, list(borders.lengths), scale)) is None
    assert "off by" in outcome(all_see_all)
    assert "off by" in outcome(lambda q, k, v, borders, scale: sdpa_per_document(q, k, v, borders, 1.3 * scale))
    assert "ModuleNotFoundError" in outcome(KERNELS["flash_attn_3"])


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations((*KERNELS, "plain softmax"), 2)))
def test_kernels_agree_in_pairs_at_the_models_head_size(one: str, other: str) -> None:
    """bf16, head size 96, several documents: outputs and gradients, each within bf16's rounding of the largest."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lengths = [37, 1, 200, 64, 513]
    results = [outputs_and_gradients(name, lengths, device) for name in (one, other)]
    for found, expected in zip(*results, strict=True):
        bound = 2e-2 * float(expected.abs().max())
        torch.testing.assert_close(found.double().cpu(), expected.double().cpu(), atol=bound, rtol=0)


def outputs_and_gradients(name: str, lengths: list[int], device: str) -> tuple[torch.Tensor, ...]:
    inputs = [x.bfloat16() for x in random_qkv(sum(lengths), heads=4, width=96)]
    if name == "plain softmax":
        inputs = [x.double().requires_grad_() for x in inputs]
        output = plain(*inputs, lengths, 96**-0.5)
    else:
        try:
            choose_kernel(name, device, torch.bfloat16)
        except HardwareError as error:
            pytest.skip(str(error))
        inputs = [x.to(device).requires_grad_() for x in inputs]
        borders = borders_of(lengths)
        output = KERNELS[name](*inputs, Borders(borders.cu_seqlens.to(device), borders.lengths), 96**-0.5)
    weights = torch.linspace(0, 500, output.numel()).cos().reshape(output.shape).to(output)
    return output.detach(), *torch.autograd.grad((output * weights).sum(), inputs)
