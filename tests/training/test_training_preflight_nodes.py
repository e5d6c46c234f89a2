"""What clocks and pairs of nodes are worth."""

import pytest

from phi3v_dist.training.preflight_nodes import judge_clocks, judge_pairs

NAMES = {0: "n1", 1: "n2", 2: "n3", 3: "n4"}


def test_clocks_within_two_seconds_are_fine_with_their_resolution() -> None:
    row = judge_clocks(["n1", "n2", "n3"], [0.0, -0.4, 1.9], 0.0123)
    assert (row.verdict, row.value) == ("fine", "+1.900 s on n3 (± 0.012 s)")


def test_a_clock_beside_the_others_is_its_nodes_fault_once() -> None:
    row = judge_clocks(["n1", "n1", "n2", "n2", "n3", "n3"], [0.0, 0.0, -7.0, -7.0, 0.1, 0.1], 0.01)
    assert row.verdict == "FAULT: n2" and len(row.faults) == 1
    assert "node n2: its clock is -7.000 s beside the others' (± 0.010 s)" in str(row.faults[0].error)


def test_of_two_clocks_that_differ_none_is_blamed() -> None:
    row = judge_clocks(["n1", "n2"], [0.0, 5.0], 0.01)
    assert row.verdict == "FAULT" and "node n2" in str(row.faults[0].error)


def test_a_difference_below_the_resolution_is_not_held_against_a_clock() -> None:
    assert judge_clocks(["n1", "n2"], [0.0, 2.5], 1.0).verdict == "fine"


def test_a_node_below_the_floor_in_both_pairs_is_blamed() -> None:
    pairs = {(0, 1): 9.0, (1, 2): 8.0, (2, 3): 90.0, (3, 0): 95.0}
    row = judge_pairs(pairs, NAMES, 50.0)
    assert row.verdict == "FAULT: n2" and len(row.faults) == 1
    assert "node n2, to both neighbours: all-reduce runs at 9.00 GB/s, the floor is 50" in str(row.faults[0].error)
    assert row.value == "8.00 GB/s, n2 with n3"


def test_a_single_slow_pair_is_told_without_blame() -> None:
    row = judge_pairs({(0, 1): 9.0, (1, 2): 80.0, (2, 3): 90.0, (3, 0): 95.0}, NAMES, 50.0)
    assert row.verdict == "FAULT" and "between nodes n1 and n2" in str(row.faults[0].error)


def test_without_a_floor_bandwidth_is_told_and_not_judged() -> None:
    row = judge_pairs({(0, 1): 0.001}, NAMES, 0.0)
    assert (row.verdict, row.needed) == ("fine", "no floor given")


@pytest.mark.parametrize("floor", [0.002, 50.0])
def test_with_a_floor_one_pair_of_two_nodes_is_held_to_it(floor: float) -> None:
    assert judge_pairs({(0, 1): 0.001}, NAMES, floor).verdict == "FAULT"
