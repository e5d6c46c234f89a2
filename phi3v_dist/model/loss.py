"""The language model head and its loss, summed over the supervised positions.

Enters: hidden states of the supervised positions alone. Leaves: logits, or the summed cross entropy in float32. The
loss is computed inside the head's own forward, since under ZeRO-3 the weight is whole only there; in chunks, so that
the float32 logits of a long pack never stand in memory at once; not divided, since only the plan knows the weight of
the whole step (DESIGN, decision 4). The weight's gradient is added up over the chunks in float32: autograd would add
bf16 to bf16 and lose small ones (facts: deepspeed.md, Loss inside lm_head). Liger's kernel does the same on a GPU; it
takes the gradients in its forward pass, so that no logits are computed twice.

Shapes: M supervised positions, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from phi3v_dist.model.kernels import choose, trial

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_CHUNK_POSITIONS = 1024  # float32 logits of one chunk: 1024 · 32064 · 4 bytes = 131 MB


class LanguageModelHead(torch.nn.Linear):
    """``lm_head``: M supervised positions of width ``in_features`` → logits, or their loss.

    ``loss_kernel``: one of ``LOSSES``, may be set after construction.
    """

    loss_kernel = "chunked"

    def forward(self, hidden_MD: torch.Tensor, targets_M: torch.Tensor | None = None) -> torch.Tensor:
        """Without ``targets_M`` return logits (M, V); with them the summed loss, a float32 scalar."""
        if targets_M is None:
            return super().forward(hidden_MD)
        return LOSSES[self.loss_kernel](hidden_MD, self.weight, targets_M)


class _SummedCrossEntropy(torch.autograd.Function):
    """Σ −log softmax(hidden · weightᵀ)[target]; backward computes each chunk's logits again."""

    @staticmethod
    def forward(ctx: Any, hidden_MD: torch.Tensor, weight_VD: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden_MD, weight_VD, targets_M)
        total = torch.zeros((), dtype=torch.float32, device=hidden_MD.device)
        for hidden, targets in _chunks(hidden_MD, targets_M):
            total += F.cross_entropy(F.linear(hidden, weight_VD).float(), targets, reduction="sum")
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        hidden_MD, weight_VD, targets_M = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_MD)
        grad_weight = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
        start = 0
        for hidden, targets in _chunks(hidden_MD, targets_M):
            scores = F.linear(hidden, weight_VD).float().softmax(-1)
            scores[torch.arange(len(targets), device=scores.device), targets] -= 1
            scores = scores.mul_(grad).to(hidden.dtype)
            grad_hidden[start : start + len(targets)] = scores @ weight_VD
            grad_weight += scores.T @ hidden
            start += len(targets)
            del scores  # else they stand beside the next chunk's
        return grad_hidden, grad_weight.to(weight_VD.dtype), None


def _chunks(hidden_MD: torch.Tensor, targets_M: torch.Tensor) -> zip:
    return zip(hidden_MD.split(_CHUNK_POSITIONS), targets_M.split(_CHUNK_POSITIONS), strict=True)


def liger(hidden_MD: torch.Tensor, weight_VD: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
    """The liger-kernel package (CUDA; needs Triton)."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
    return loss(weight_VD, hidden_MD, targets_M)


LOSSES: dict[str, Loss] = {"liger": liger, "chunked": _SummedCrossEntropy.apply}


def choose_loss(name: str, device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return (name in ``LOSSES``, reason). ``auto`` takes the first that runs here.

    Raises ``HardwareError`` when the one asked for can't run here.
    """
    return choose("model.loss", name, {kernel: partial(_why_not, kernel, device_type, dtype) for kernel in LOSSES})


def _why_not(name: str, device_type: str, dtype: torch.dtype) -> str | None:
    if name == "chunked":
        return None
    if device_type != "cuda":
        return f"needs a CUDA device, this is {device_type}"
    return trial(*(partial(_few_positions, loss, device_type, dtype) for loss in (LOSSES[name], LOSSES["chunked"])))


def _few_positions(loss: Loss, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Loss and gradients of 24 positions, scaled as a step does."""
    hidden = torch.linspace(0, 200, 24 * 64).sin().reshape(24, 64).to(device, dtype).requires_grad_()
    weight = torch.linspace(0, 900, 300 * 64).sin().reshape(300, 64).to(device, dtype).requires_grad_()
    total = loss(hidden, weight, torch.arange(24, device=device))
    return total.detach(), *torch.autograd.grad(total * 0.25, (hidden, weight))
