"""The one place that knows CPU from GPU: device, process group backend, attention kernel, optimizer kernel.

Enters: the options and what this machine has. Leaves: one ``Backend``; everything after it is the same code.
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.options import RunConfig, TrainingOptions
from phi3v_dist.errors import HardwareError
from phi3v_dist.model.attention import choose_kernel


@dataclass(frozen=True)
class Backend:
    """What a rank runs on. ``reason``: one line for the log that says why."""

    device: torch.device
    process_group: str
    dtype: torch.dtype
    attention_kernel: str
    reason: str

    def optimizer(self, groups: Iterable[dict[str, Any]], options: TrainingOptions) -> torch.optim.Optimizer:
        """AdamW, PyTorch's fused kernel: it exists for CPU and CUDA and keeps no full-size temporaries."""
        return torch.optim.AdamW(
            groups,
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            eps=options.epsilon,
            fused=True,
        )


def choose_backend(config: RunConfig, who: ClusterInfo) -> Backend:
    """Choose by ``training.device`` and ``training.precision``.

    Raises ``HardwareError`` when the recipe asks for a GPU and this rank has none.
    """
    wanted = config.training.device
    has_gpu = torch.cuda.is_available() and torch.cuda.device_count() > who.rank_of_node
    if wanted == "cuda" and not has_gpu:
        raise HardwareError(
            "the recipe asks for a CUDA device and this machine has "
            + (f"{torch.cuda.device_count()} for {who.ranks_per_node} ranks" if torch.cuda.is_available() else "none"),
            where="training.device",
            value=wanted,
            mend="Start on a GPU node, or set training.device=cpu.",
        )
    use_gpu = has_gpu and wanted != "cpu"
    device = torch.device("cuda", who.rank_of_node) if use_gpu else torch.device("cpu")
    _settle_libraries(device)
    dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    kernel, why = choose_kernel(config.model.attention, device.type, dtype)
    reason = f"{device.type}, {'nccl' if use_gpu else 'gloo'}, {config.training.precision}, attention {kernel} ({why})"
    return Backend(device, "nccl" if use_gpu else "gloo", dtype, kernel, reason)


def _settle_libraries(device: torch.device) -> None:
    """Tell DeepSpeed the device before its first import, and silence the one warning that torch 2.13 repeats for it."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed.*")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.*")
