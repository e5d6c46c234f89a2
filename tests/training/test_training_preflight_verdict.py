"""Whose fault a difference or an error is: the odd node's, or nobody's."""

import pytest

from phi3v_dist.errors import RunError, ShardError
from phi3v_dist.training.preflight_verdict import Answer, Fault, Row, differences, faults_of


def answers(*values: object, ranks_per_node: int = 1) -> list[Answer]:
    """An answer per rank; an exception stands for itself."""
    return [
        Answer(rank, f"n{rank // ranks_per_node}", None, value)
        if isinstance(value, Exception)
        else Answer(rank, f"n{rank // ranks_per_node}", value, None)
        for rank, value in enumerate(values)
    ]


def missing(where: str = "/data") -> ShardError:
    return ShardError("a file is missing", where=where, mend="Copy it.")


def test_the_node_that_differs_from_most_is_named() -> None:
    (fault,) = differences(answers({"torch": "2.13"}, {"torch": "2.12"}, {"torch": "2.13"}), "Install it.")
    assert fault.node == "n1"
    assert str(fault.error) == "node n1: torch is 2.12, on the others 2.13. Install it."


def test_a_node_that_lacks_what_most_have_is_named() -> None:
    (fault,) = differences(answers({"a": 1, "NCCL": 2}, {"a": 1, "NCCL": 2}, {"a": 1}), "Mend.")
    assert fault.node == "n2" and "NCCL is not there, on the others 2" in str(fault.error)


def test_all_ranks_of_a_node_are_one_fault() -> None:
    told = answers({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}, {"a": 1}, {"a": 1}, ranks_per_node=2)
    assert [fault.node for fault in differences(told, "Mend.")] == ["n1"]


@pytest.mark.parametrize("values", [({"a": 1}, {"a": 2}), ({"a": 1}, {"a": 2}, {"a": 3}, {"a": 1})])
def test_without_a_majority_all_values_are_told_and_nobody_is_blamed(values) -> None:
    (fault,) = differences(answers(*values), "Mend.")
    assert fault.node == ""
    assert "1 on n0" in str(fault.error) and "2 on n1" in str(fault.error)


def test_equal_values_are_no_fault() -> None:
    assert differences(answers({"a": 1}, {"a": 1}), "Mend.") == []


def test_an_option_that_differs_names_the_node_and_blames_it_not() -> None:
    (fault,) = differences(answers({"a": 1}, {"a": 1}, {"a": 2}), "Mend.", of_node=False)
    assert fault.node == "" and "node n2" in str(fault.error)


def test_an_error_of_one_node_is_that_nodes() -> None:
    (fault,) = faults_of(answers("fine", missing(), "fine"))
    assert fault.node == "n1"
    assert str(fault.error) == "node n1, /data: a file is missing. Copy it."
    assert type(fault.error) is ShardError


def test_the_same_error_on_all_nodes_is_told_once_and_is_no_nodes() -> None:
    (fault,) = faults_of(answers(missing(), missing(), missing()))
    assert (fault.node, str(fault.error)) == ("", "/data: a file is missing. Copy it.")


def test_two_errors_of_one_node_are_two_faults() -> None:
    found = faults_of(answers("fine", "fine", missing("/a"), missing("/b"), ranks_per_node=2))
    assert [(fault.node, fault.error.where) for fault in found] == [("n1", "node n1, /a"), ("n1", "node n1, /b")]


def test_a_verdict_names_each_bad_node_once() -> None:
    error = RunError("bad", where="here", mend="Mend.")
    assert Row("a", "", faults=(Fault(error, "n2"), Fault(error, "n1"), Fault(error, "n2"))).verdict == "FAULT: n1, n2"
    assert Row("a", "", faults=(Fault(error),)).verdict == "FAULT"
    assert (Row("a", "1").verdict, Row("a", "", skipped="no GPU").verdict) == ("fine", "skipped")
