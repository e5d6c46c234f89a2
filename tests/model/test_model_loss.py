"""The chunked, summed loss is plain cross entropy over all logits, in values and gradients (float32)."""

import pytest
import torch
import torch.nn.functional as F
from formula import golden_model

from phi3v_dist.model import loss
from phi3v_dist.model.loss import LanguageModelHead

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
