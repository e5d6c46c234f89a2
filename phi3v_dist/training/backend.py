"""The one place that knows CPU from GPU: device, process group backend, kernels of attention, loss and optimizer.

Enters: the options and what this machine has. Leaves: one ``Backend``; everything after it is the same code.
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from phi3v_dist.cluster.compiled import load_compiled_parts
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.options import RunConfig, TrainingOptions
from phi3v_dist.errors import HardwareError, UserError
from phi3v_dist.model.attention import choose_kernel
from phi3v_dist.model.loss import choose_loss


@dataclass(frozen=True)
class Backend:
    """What a rank runs on. ``reason``: one line for the log that says why."""

    device: torch.device
    process_group: str
    dtype: torch.dtype
    attention_kernel: str
    loss_kernel: str
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

    Raises ``HardwareError`` when the recipe asks for a GPU and there is none, or fewer than ranks on this machine, or
    for a kernel that this machine lacks.
    """
    try:
        return _choose(config, who)
    except UserError as error:
        # Ranks haven't met yet and machines may differ: rank 0 may go on and wait, so each machine's first rank speaks.
        error.on_every_rank = who.rank_of_node > 0
        raise


def takes_gpu(config: RunConfig) -> bool:
    """Whether ranks run on GPUs here; nothing is done to them yet."""
    return config.training.device == "cuda" or (config.training.device == "auto" and _gpus() > 0)


def checking_group(config: RunConfig) -> str:
    """Process groups for the checks before training: values travel by gloo, also from a rank without a working GPU."""
    return "cpu:gloo,cuda:nccl" if takes_gpu(config) and torch.cuda.is_available() else "cpu:gloo"


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _choose(config: RunConfig, who: ClusterInfo) -> Backend:
    gpus, use_gpu = _gpus(), takes_gpu(config)
    if use_gpu and gpus < who.ranks_per_node:
        raise _too_few(gpus, config.training.device, who)
    device = torch.device("cuda", who.rank_of_node) if use_gpu else torch.device("cpu")
    _settle_libraries(device)
    dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    group = "nccl" if use_gpu else "gloo"
    attention, why = choose_kernel(config.model.attention, device.type, dtype)
    loss, why_loss = choose_loss(config.model.loss, device.type, dtype)
    where = f"{device.type}, {group}, {config.training.precision}"
    reason = f"{where}, attention {attention} ({why}), loss {loss} ({why_loss})"
    return Backend(device, group, dtype, attention, loss, reason)


def _too_few(gpus: int, wanted: str, who: ClusterInfo) -> HardwareError:
    """All ranks of a machine fail alike: if some went on, or took the CPU, they would wait for the others for ever."""
    has = f"{gpus} for {who.ranks_per_node} ranks" if gpus else "none"
    return HardwareError(
        f"each rank needs a CUDA device of its own and this machine has {has}",
        where="training.device",
        value=wanted,
        mend="Start on a GPU node with one rank per GPU, or set training.device=cpu.",
    )


def _settle_libraries(device: torch.device) -> None:
    """Tell DeepSpeed the device before its first import, and silence the one warning that torch 2.13 repeats for it.

    Without ``MKL_CBWR`` MKL promises the same sums from run to run only for arrays that lie alike in memory, and a
    resumed run's may not (oneMKL developer guide, "Getting Started with Conditional Numerical Reproducibility").
    ``AUTO`` takes the quickest branch, also on CPUs that aren't Intel's.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed.*")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.*")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ.setdefault("MKL_CBWR", "AUTO")
        load_compiled_parts()
