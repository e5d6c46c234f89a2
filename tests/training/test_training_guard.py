"""A run is stopped by a loss that is no number and by many damaged samples, not by one."""

import logging
import math
from dataclasses import replace

import pytest

from phi3v_dist.errors import RunError
from phi3v_dist.training.guard import Guard
from phi3v_dist.training.step import StepSums

GOOD = StepSums(
    loss=1.5,
    gradient_norm=0.3,
    tokens=900,
    supervised=90,
    documents=100,
    damaged=(),
    damaged_count=0,
    model_flops=1e9,
)


def test_a_good_step_passes_and_is_counted() -> None:
    guard = Guard(0.0)
    guard.check(1, GOOD)
    guard.check(2, GOOD)
    assert (guard.documents, guard.damaged) == (200, 0)


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops_the_run_and_is_shown(name: str, value: float) -> None:
    with pytest.raises(RunError, match=r"^step 7: .*not finite") as caught:
        Guard(1.0).check(7, replace(GOOD, **{name: value}))
    assert str(value) in str(caught.value)


def test_one_damaged_sample_never_stops_a_run_however_small() -> None:
    Guard(0.0).check(1, replace(GOOD, documents=1, damaged_count=1))


def test_the_share_counts_over_all_steps_and_over_all_ranks() -> None:
    guard = Guard(0.02)
    guard.check(1, replace(GOOD, damaged_count=2))  # 2 of 100: allowed
    guard.check(2, replace(GOOD, damaged_count=2))  # 4 of 200
    with pytest.raises(RunError, match=r"^step 3: 7 of 300 samples were damaged.*packing\.max_damaged_share"):
        guard.check(3, replace(GOOD, damaged_count=3))


def test_a_damaged_sample_of_this_rank_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="phi3v_dist"):
        Guard(0.5).check(4, replace(GOOD, damaged=((17, "truncated JPEG"),), damaged_count=1))
    assert "step 4: sample 17" in caplog.text
    assert "truncated JPEG" in caplog.text


def test_the_same_damaged_sample_in_the_next_epoch_is_counted_anew() -> None:
    guard = Guard(0.001)
    for epoch in range(3):
        guard.check(4 * epoch + 1, replace(GOOD, damaged_count=1), epoch)
        guard.check(4 * epoch + 2, GOOD, epoch)
    assert (guard.documents, guard.damaged) == (200, 1)
