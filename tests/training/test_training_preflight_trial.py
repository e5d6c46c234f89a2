"""Losses of one pack on several ranks: which node calculates otherwise."""

import math

import pytest

from phi3v_dist.training.preflight_trial import judge_losses


def test_losses_that_differ_by_rounding_are_fine() -> None:
    assert judge_losses(["n1", "n2", "n3"], [10.41, 10.43, 10.40]) == []


@pytest.mark.parametrize("loss", [math.nan, math.inf, 9.0, 0.0])
def test_the_node_whose_loss_is_another_is_blamed(loss: float) -> None:
    (fault,) = judge_losses(["n1", "n2", "n3"], [10.41, loss, 10.40])
    assert fault.node == "n2" and "node n2: its loss of a pack that all ranks have is" in str(fault.error)


def test_where_no_loss_is_finite_no_node_is_blamed() -> None:
    assert {fault.node for fault in judge_losses(["n1", "n2"], [math.nan, math.nan])} == {""}
