"""The chunked, summed loss is plain cross entropy over all logits, in values and gradients (float32)."""

import sys
import types
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from formula import golden_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from phi3v_dist.errors import HardwareError
from phi3v_dist.model import loss
from phi3v_dist.model.kernels import trial
from phi3v_dist.model.loss import LOSSES, LanguageModelHead, _few_positions, choose_loss

WIDTH, VOCABULARY = 16, 37


@pytest.fixture
def head() -> LanguageModelHead:
    torch.manual_seed(0)
    return LanguageModelHead(WIDTH, VOCABULARY, bias=False)


def hidden_and_targets(positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(positions)
    hidden = torch.randn(positions, WIDTH, generator=generator).requires_grad_()
    return hidden, torch.randint(VOCABULARY, (positions,), generator=generator)


@pytest.mark.parametrize("positions", [1, 7, 1023, 1024, 1025, 2048, 2500])
def test_loss_and_gradients_equal_plain_cross_entropy(head: LanguageModelHead, positions: int) -> None:
    hidden, targets = hidden_and_targets(positions)
    inputs = (hidden, head.weight)
    found = head(hidden, targets)
    expected = F.cross_entropy(hidden @ head.weight.T, targets, reduction="sum")
    torch.testing.assert_close(found, expected)
    assert (found.dtype, found.shape) == (torch.float32, ())
    for one, other in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_no_more_logits_than_one_chunk_stand_in_memory(
    head: LanguageModelHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    plain = F.linear
    monkeypatch.setattr(loss.F, "linear", lambda hidden, weight: rows.append(len(hidden)) or plain(hidden, weight))
    hidden, targets = hidden_and_targets(2500)
    head(hidden, targets).backward()
    assert rows == [1024, 1024, 452] * 2  # once forward, once again when gradients are taken


@pytest.mark.parametrize(("width", "dtype", "most_megabytes"), [(192, torch.float32, 320), (3072, torch.bfloat16, 870)])
def test_peak_bytes_of_32k_supervised_positions_are_those_of_one_chunk(
    width: int, dtype: torch.dtype, most_megabytes: int
) -> None:
    """Beside weight and hidden states: gradients, and at most two chunks of float32 logits (131 MB each).

    All logits would be 4,203 MB. Storages are counted without arithmetic; the next test holds the count to a real run.
    """
    with FakeTensorMode():
        head, given, peak = peak_bytes(32 * 1024, width, 32_064, dtype)
    assert peak - given < most_megabytes * 1e6
    chunk, gradients = 1024 * 32_064 * 4, 2 * head.weight.numel() * 4 + 32 * 1024 * width * dtype.itemsize
    assert peak - given <= 2 * chunk + gradients


def test_counted_bytes_without_arithmetic_are_those_of_a_real_run() -> None:
    real = peak_bytes(2500, 16, 1000, torch.float32)[1:]
    with FakeTensorMode():
        assert peak_bytes(2500, 16, 1000, torch.float32)[1:] == real


def peak_bytes(positions: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[LanguageModelHead, int, int]:
    """Head, bytes of what is given (weight, hidden states, targets), most bytes that ever stood, of loss + backward."""
    head = LanguageModelHead(width, vocabulary, bias=False, dtype=dtype)
    hidden = torch.zeros(positions, width, dtype=dtype, requires_grad=True)
    targets = torch.zeros(positions, dtype=torch.long)
    tracker = MemTracker()
    tracker.track_external(head, hidden, targets)
    with tracker:
        head(hidden, targets).backward()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    return head, sum(x.numel() * x.itemsize for x in (head.weight, hidden, targets)), peak


def test_weight_gradient_of_a_bf16_head_is_added_up_in_float32(
    head: LanguageModelHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_CHUNK_POSITIONS", 16)
    head, hidden = head.bfloat16(), torch.ones(8192, WIDTH, dtype=torch.bfloat16)
    targets = torch.zeros(8192, dtype=torch.long)
    found = torch.autograd.grad(head(hidden, targets), head.weight)[0].double()
    logits = F.cross_entropy(hidden.double() @ head.double().weight.T, targets, reduction="sum")
    exact = torch.autograd.grad(logits, head.weight)[0]
    # 512 equal chunks added up in bf16 would stop growing at 256 of them
    assert float((found - exact).abs().max() / exact.abs().max()) < 2**-7


def test_loss_of_a_bf16_head_is_taken_in_float32(head: LanguageModelHead) -> None:
    hidden, targets = hidden_and_targets(64)
    head, hidden = head.bfloat16(), hidden.detach().bfloat16()
    expected = F.cross_entropy((hidden @ head.weight.T).float(), targets, reduction="sum")
    assert head(hidden, targets).dtype == torch.float32
    torch.testing.assert_close(head(hidden, targets), expected)


def test_without_targets_it_gives_logits(head: LanguageModelHead) -> None:
    hidden, _ = hidden_and_targets(5)
    torch.testing.assert_close(head(hidden), hidden @ head.weight.T)


def test_a_pack_that_supervises_nothing_gives_the_head_a_gradient_of_zero() -> None:
    model = golden_model()
    nothing = torch.zeros(0, dtype=torch.long)
    found = model(
        input_ids=torch.tensor([1, 5, 7]),
        positions=torch.arange(3),
        cu_seqlens=torch.tensor([0, 3], dtype=torch.int32),
        supervised=nothing,
        targets=nothing,
    )
    found.backward()
    assert found.item() == 0
    assert model.lm_head.weight.grad is not None
    assert not model.lm_head.weight.grad.any()


def test_liger_needs_a_gpu_and_auto_on_a_cpu_says_so() -> None:
    name, reason = choose_loss("auto", "cpu", torch.bfloat16)
    assert name == "chunked"
    assert "liger: needs a CUDA device, this is cpu" in reason
    with pytest.raises(HardwareError, match=r"^model\.loss: .*needs a CUDA device.*model\.loss=auto"):
        choose_loss("liger", "cpu", torch.bfloat16)


def test_the_option_offers_exactly_the_losses_there_are() -> None:
    from phi3v_dist.config.options import ModelOptions

    assert set(ModelOptions.model_json_schema()["properties"]["loss"]["enum"]) == {"auto", *LOSSES}


def test_liger_is_asked_for_a_sum_with_float32_accumulation_of_the_heads_weight(
    head: LanguageModelHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stated:  # parameters of liger-kernel 0.8.5, LigerFusedLinearCrossEntropyLoss
        def __init__(self, ce_weight=None, ignore_index=-100, reduction="mean", accum_dtype=None):
            assert (reduction, accum_dtype) == ("sum", torch.float32)

        def __call__(self, lin_weight, _input, target, bias=None):
            return F.cross_entropy(_input @ lin_weight.T, target, reduction="sum")

    package = types.ModuleType("liger_kernel.transformers")
    package.LigerFusedLinearCrossEntropyLoss = Stated
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    assert trial(*(partial(_few_positions, LOSSES[name], "cpu", torch.float32) for name in LOSSES)) is None
    head.loss_kernel = "liger"
    hidden, targets = hidden_and_targets(40)
    torch.testing.assert_close(head(hidden, targets), F.cross_entropy(head(hidden), targets, reduction="sum"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="liger needs a CUDA device")
def test_liger_equals_the_chunked_loss_at_the_models_vocabulary() -> None:
    try:
        choose_loss("liger", "cuda", torch.bfloat16)
    except HardwareError as error:
        pytest.skip(str(error))
    hidden = torch.randn(3000, 192, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = (torch.randn(32_064, 192, device="cuda") / 8).bfloat16().requires_grad_()
    targets = torch.randint(32_064, (3000,), device="cuda")
    found, expected = (LOSSES[name](hidden, weight, targets) for name in ("liger", "chunked"))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    gradients = [torch.autograd.grad(total * 0.25, (hidden, weight)) for total in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-2 * float(other.abs().max()))
