"""The learning rate against torch's own schedulers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from phi3v_dist.config.options import TrainingOptions
from phi3v_dist.training.schedule import learning_rate


def options(highest: float = 1e-3, warmup: float = 0.1, lowest: float = 0.1) -> TrainingOptions:
    return TrainingOptions(learning_rate=highest, warmup_share=warmup, min_learning_rate_share=lowest)


def rates(total: int, chosen: TrainingOptions) -> list[float]:
    return [learning_rate(step, total, chosen) for step in range(total)]


def torch_rates(total: int, warmup: int, highest: float, lowest: float) -> list[float]:
    """torch's linear warm-up and cosine; its cosine starts at the highest rate, at which our warm-up ends."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=highest)
    linear = LinearLR(optimizer, start_factor=1 / warmup, end_factor=1.0, total_iters=warmup - 1)
    cosine = CosineAnnealingLR(optimizer, T_max=total - warmup, eta_min=lowest)
    scheduler = SequentialLR(optimizer, [linear, cosine], milestones=[warmup - 1])
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (40, 3), (1000, 30)])
def test_rates_equal_those_of_torchs_schedulers(total: int, warmup: int) -> None:
    found = rates(total, options(1e-3, warmup / total, 0.1))
    assert found == pytest.approx(torch_rates(total, warmup, 1e-3, 1e-4), rel=1e-9)


def test_warm_up_is_linear_from_the_first_step_to_the_highest() -> None:
    assert rates(100, options(1e-3, 0.05))[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])


def test_without_warm_up_the_cosine_begins_at_once() -> None:
    found = rates(4, options(1.0, 0.0, 0.0))
    assert found == pytest.approx([0.5 + 0.5 * c for c in (2**-0.5, 0.0, -(2**-0.5), -1.0)], abs=1e-12)


@given(st.integers(1, 300), st.floats(0, 0.9), st.floats(0, 1))
def test_it_rises_then_falls_and_ends_at_the_lowest(total: int, warmup: float, lowest: float) -> None:
    found = rates(total, options(1e-3, warmup, lowest))
    top = round(warmup * total)
    assert all(0 < rate <= 1e-3 * (1 + 1e-12) for rate in found[:-1])
    assert found[:top] == sorted(found[:top])
    assert all(one >= other - 1e-18 for one, other in zip(found[top:], found[top + 1 :], strict=False))
    if top < total:
        assert found[-1] == pytest.approx(1e-3 * lowest, abs=1e-15)


@given(st.integers(0, 500), st.integers(1, 500))
def test_a_step_beyond_the_last_keeps_the_lowest(step: int, total: int) -> None:
    assert learning_rate(total + step, total, options(1.0, 0.0, 0.2)) == pytest.approx(0.2)


def test_a_run_of_one_step_moves() -> None:
    assert learning_rate(0, 1, options(1e-3, 1.0)) == 1e-3
    assert learning_rate(0, 1, options(1e-3, 0.0)) == pytest.approx(1e-4)
