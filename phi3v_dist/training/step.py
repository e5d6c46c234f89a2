"""One optimizer step: every pack of the plan forward and backward, then one update.

Enters: a step's plan and this rank's batches. Leaves: the updated engine and the sums that the metrics are made of.

The loss of a step is Σ over its supervised tokens ÷ the planned weight (DESIGN, decision 4). DeepSpeed's reduction
divides by the number of ranks, so each rank's share is multiplied by it; its own scaling by micro-steps is off.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from phi3v_dist.cluster.process_group import sum_over_ranks
from phi3v_dist.documents.crops import finish_crops
from phi3v_dist.packing.collate import Batch
from phi3v_dist.packing.steps import StepPlan, micro_steps


@dataclass(frozen=True)
class StepSums:
    """Sums of one step over all ranks; ``loss`` is per planned supervised token."""

    loss: float
    gradient_norm: float
    tokens: int
    supervised: int
    documents: int
    damaged: tuple[tuple[int, str], ...]  # of this rank alone: sample number and reason
    damaged_count: int
    model_flops: float


def forward(model: Any, batch: Batch, dtype: torch.dtype) -> torch.Tensor:
    """Summed loss of one batch (float32 scalar). ``model``: an engine or the bare model."""
    # A leaf module of DeepSpeed that trains needs an input that asks for a gradient; a frozen one has no backward.
    pixels = finish_crops(batch.crops, batch.grids, dtype) if batch.grids else None
    if pixels is not None:
        pixels.requires_grad_(model.trains_vision)
    return model(
        input_ids=batch.input_ids,
        positions=batch.positions,
        cu_seqlens=batch.cu_seqlens,
        pixels=pixels,
        grids=batch.grids,
        supervised=batch.supervised,
        targets=batch.targets,
    )


def take_step(
    engine: Any,
    plan: StepPlan,
    batches: Iterable[Batch],
    *,
    learning_rate: float,
    num_ranks: int,
    goes_on: Callable[[int, Batch], bool] = lambda micro_step, batch: True,
) -> StepSums | None:
    """Run all micro-steps of a step and update the parameters once.

    ``goes_on`` is asked before each micro-step. Where it says no, on every rank alike, the step is thrown away:
    parameters and optimizer stay as the step before left them, and the result is None.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
    last = micro_steps(len(plan.packs), num_ranks) - 1
    sums = torch.zeros(6, dtype=torch.float64, device=engine.device)
    damaged: list[tuple[int, str]] = []
    for number, batch in enumerate(batches):
        if not goes_on(number, batch):
            return None
        engine.set_gradient_accumulation_boundary(number == last)
        loss = forward(engine, batch.to(engine.device), engine.module.lm_head.weight.dtype)
        engine.backward(loss * (num_ranks / max(plan.weight, 1)), scale_wrt_gas=False)
        engine.step()
        sums += _sums_of(batch, loss.detach(), engine.module)
        damaged.extend(batch.damaged)
    total = sum_over_ranks(sums).tolist()
    return StepSums(
        loss=total[0] / max(plan.weight, 1),
        gradient_norm=float(engine.get_global_grad_norm() or 0.0),
        tokens=int(total[1]),
        supervised=int(total[2]),
        documents=int(total[3]),
        damaged=tuple(damaged),
        damaged_count=int(total[4]),
        model_flops=total[5],
    )


def _sums_of(batch: Batch, loss: torch.Tensor, model: Any) -> torch.Tensor:
    counts = [0 if batch.weight == 0 else len(x) for x in (batch.input_ids, batch.targets, batch.samples)]
    flops = 0 if batch.weight == 0 else _flops_of(batch, model)
    numbers = torch.tensor([0.0, *counts, len(batch.damaged), flops], dtype=torch.float64, device=loss.device)
    numbers[0] = loss.double()
    return numbers


def _flops_of(batch: Batch, model: Any) -> float:
    image_tokens = int((batch.input_ids < 0).sum())
    crops = len(batch.crops) + len(batch.grids)  # each picture's global view is made on the device
    return model.training_flops(batch.cu_seqlens.diff().tolist(), len(batch.targets), crops, image_tokens)
