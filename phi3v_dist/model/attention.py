"""Causal attention inside each document of a pack: one function, several kernels, chosen once with a reason.

Enters: q, k, v of a pack and the documents' borders. Leaves: the attention output. transformers' Phi3 layers are not
patched: they look a function up by name, ours is registered under ``HANDED_IN_ATTENTION`` and calls whatever the
caller handed in as ``attend`` with this very call.

Shapes: T tokens of the pack, N heads, H head width. transformers hands (1, N, T, H) and wants (1, T, N, H) back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

from phi3v_dist.model.configuration import HANDED_IN_ATTENTION
from phi3v_dist.model.kernels import choose, trial

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "Borders", float], torch.Tensor]
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Borders:
    """Where the documents of a pack lie: ``cu_seqlens`` (documents + 1,) int32 on the device, ``lengths`` on the host.

    The host copy spares the GPU a synchronization in every layer.
    """

    cu_seqlens: torch.Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, cu_seqlens: torch.Tensor) -> "Borders":
        """Read the lengths once for all layers."""
        return cls(cu_seqlens, tuple(cu_seqlens.diff().tolist()))


def sdpa_per_document(
    q_TNH: torch.Tensor, k_TNH: torch.Tensor, v_TNH: torch.Tensor, borders: Borders, scale: float
) -> torch.Tensor:
    """Plain PyTorch, any device and dtype.

    Documents of like length are laid side by side, padded on the right, in one call: attention is causal, so a real
    query never sees the padding after it. Where padding would double the work each document gets a call of its own.
    """
    lengths = borders.lengths
    documents = [x.split(lengths) for x in (q_TNH, k_TNH, v_TNH)]
    if len(lengths) * max(lengths) > 2 * q_TNH.shape[0]:
        outputs = [_causal(q[None], k[None], v[None], scale)[0] for q, k, v in zip(*documents, strict=True)]
        return torch.cat(outputs)
    padded = [pad_sequence(list(parts), batch_first=True) for parts in documents]
    output = _causal(padded[0], padded[1], padded[2], scale)
    return torch.cat([output[i, :length] for i, length in enumerate(lengths)])


def _causal(q_BTNH: torch.Tensor, k_BTNH: torch.Tensor, v_BTNH: torch.Tensor, scale: float) -> torch.Tensor:
    heads_first = (x.transpose(1, 2) for x in (q_BTNH, k_BTNH, v_BTNH))
    return F.scaled_dot_product_attention(*heads_first, is_causal=True, scale=scale).transpose(1, 2)


def varlen(
    q_TNH: torch.Tensor, k_TNH: torch.Tensor, v_TNH: torch.Tensor, borders: Borders, scale: float
) -> torch.Tensor:
    """PyTorch's own variable-length flash attention (CUDA, bf16 or fp16)."""
    from torch.nn.attention.varlen import varlen_attn

    cu, longest = borders.cu_seqlens, max(borders.lengths)
    return varlen_attn(q_TNH, k_TNH, v_TNH, cu, cu, longest, longest, scale=scale, window_size=(-1, 0))


def flash(module: str) -> Kernel:
    """Return the kernel of one of the flash-attention packages (CUDA, bf16 or fp16).

    They are called directly: PyTorch's ``activate_flash_attention_impl`` would put them behind ``varlen_attn``, but
    behind the vision tower's attention too. All three take these keywords; their order differs.
    """

    def kernel(
        q_TNH: torch.Tensor, k_TNH: torch.Tensor, v_TNH: torch.Tensor, borders: Borders, scale: float
    ) -> torch.Tensor:
        cu, longest = borders.cu_seqlens, max(borders.lengths)
        output = import_module(module).flash_attn_varlen_func(
            q_TNH,
            k_TNH,
            v_TNH,
            cu_seqlens_q=cu,
            cu_seqlens_k=cu,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            softmax_scale=scale,
            causal=True,
        )
        # FA4 and early FA3 also hand back the logarithms of the softmax sums.
        return output[0] if isinstance(output, tuple) else output

    return kernel


KERNELS: dict[str, Kernel] = {
    "flash_attn_3": flash("flash_attn_interface"),  # Hopper
    "flash_attn_4": flash("flash_attn.cute"),  # Hopper and Blackwell
    "flash_attn": flash("flash_attn"),
    "varlen": varlen,
    "sdpa": sdpa_per_document,
}


def choose_kernel(name: str, device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return (kernel name, reason). ``auto`` takes the first that runs here, in the order of ``KERNELS``.

    Raises ``HardwareError`` when the kernel asked for can't run here.
    """
    candidates = {kernel: partial(_why_not, kernel, device_type, dtype) for kernel in KERNELS}
    return choose("model.attention", name, candidates)


def _why_not(name: str, device_type: str, dtype: torch.dtype) -> str | None:
    if name == "sdpa":
        return None
    if device_type != "cuda":
        return f"needs a CUDA device, this is {device_type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"needs bf16 or fp16, this is {dtype}"
    return trial(*(partial(_few_tokens, kernel, device_type, dtype) for kernel in (KERNELS[name], sdpa_per_document)))


def _few_tokens(kernel: Kernel, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Output and gradients of two short documents with Phi-3-Vision's head size, laid in memory as its layers do."""
    numbers = torch.linspace(0, 200, 3 * 2 * 24 * 96).sin().reshape(3, 2, 24, 96)
    inputs = tuple(x.to(device, dtype).transpose(0, 1).requires_grad_() for x in numbers)
    borders = Borders(torch.tensor([0, 19, 24], dtype=torch.int32, device=device), (19, 5))
    output = kernel(*inputs, borders, 96**-0.5)
    return output.detach(), *torch.autograd.grad((output * inputs[0].detach()).sum(), inputs)


def attend_in_pack(kernel: str, borders: Borders) -> Attend:
    """Bind a kernel to the borders of one pack."""

    def attend(q_1NTH: torch.Tensor, k_1NTH: torch.Tensor, v_1NTH: torch.Tensor, scale: float) -> torch.Tensor:
        q, k, v = (x[0].transpose(0, 1) for x in (q_1NTH, k_1NTH, v_1NTH))
        return KERNELS[kernel](q, k, v, borders, scale)[None]

    return attend


def _handed_in(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    *,
    attend: Attend,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Serve as transformers' attention function; the work is done by ``attend``."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return attend(query, key, value, scaling), None


AttentionInterface.register(HANDED_IN_ATTENTION, _handed_in)
