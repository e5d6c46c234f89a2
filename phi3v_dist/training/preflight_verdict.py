"""What the checks before training are made of: answers of all ranks, faults, rows of the table.

Enters: what each rank measured. Leaves: a ``Row`` per check, equal on every rank, with a ``Fault`` for everything that
is wrong and the node it belongs to. A rank's own trouble never stops the others: it is its answer.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from phi3v_dist.cluster.deadline import Deadline
from phi3v_dist.cluster.process_group import from_all_ranks
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.console import log
from phi3v_dist.errors import HardwareError, RunError, UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Answer(Generic[Value]):
    """What one rank answered: a value, or an error."""

    rank: int
    node: str
    value: Value | None
    error: UserError | None


@dataclass(frozen=True)
class Fault:
    """``node``: the one that it belongs to, which other nodes could do without; empty where a person must mend it."""

    error: UserError
    node: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table. ``value``: of the worst node. ``skipped``: why nothing was checked."""

    check: str
    value: str
    needed: str = ""
    faults: tuple[Fault, ...] = ()
    skipped: str = ""

    @property
    def verdict(self) -> str:
        """In a word or two: fine, skipped, or who is at fault."""
        if self.faults:
            nodes = sorted({fault.node for fault in self.faults if fault.node})
            return f"FAULT: {', '.join(nodes)}" if nodes else "FAULT"
        return "skipped" if self.skipped else "fine"


class Panel:
    """All ranks, asked together. ``deadline`` knows whether this rank still measures or waits for the others."""

    def __init__(self, who: ClusterInfo, deadline: Deadline) -> None:
        self.who, self.deadline = who, deadline

    def ask(self, what: str, measure: Callable[[], Value], patience: float = 1.0) -> list[Answer[Value]]:
        """Call ``measure`` on every rank, which talks to no other one in it; return all ranks' answers."""
        self.deadline.at(what, patience)
        answer = _answer(measure, self.who)
        self.deadline.at(f"{what}, done here", patience)
        return from_all_ranks(answer)


def _answer(measure: Callable[[], Value], who: ClusterInfo) -> Answer[Value]:
    try:
        return Answer(who.rank, who.node_name, measure(), None)
    except UserError as error:
        return Answer(who.rank, who.node_name, None, error)
    except OSError as error:
        mend = "Mend the path, its permissions or the disk."
        told = RunError(str(error.strerror or error), where=str(error.filename or "this node"), mend=mend)
    except Exception as error:  # a broken GPU or library: this node's trouble, for a person to read
        log.exception("preflight")
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        told = HardwareError(what, where="this node", mend="Its standard error has the traceback.")
    return Answer(who.rank, who.node_name, None, told)


def values_of(answers: Iterable[Answer[Value]]) -> list[tuple[str, Value]]:
    """(node, value) of the ranks that have one."""
    return [(answer.node, answer.value) for answer in answers if answer.value is not None]


def faults_of(answers: Sequence[Answer[Value]], *, of_node: bool = True) -> tuple[Fault, ...]:
    """Return the ranks' errors, each once per node.

    A trouble that all nodes have is no node's: it is told once, for a person to mend. ``of_node=False``: so are all.
    """
    texts: dict[str, dict[str, UserError]] = {}
    for answer in answers:
        if answer.error is not None:
            texts.setdefault(str(answer.error), {}).setdefault(answer.node, answer.error)
    every_node = {answer.node for answer in answers}
    found: dict[tuple[str, str], Fault] = {}
    for nodes in texts.values():
        for node, error in nodes.items():
            if nodes.keys() == every_node:
                found.setdefault(("", str(error)), Fault(error))
            else:
                found[node, str(error)] = Fault(on_node(error, node), node if of_node else "")
    return tuple(found.values())


def on_node(error: UserError, node: str) -> UserError:
    """Return the error with the node's name in front of its place."""
    return type(error)(error.what, where=f"node {node}, {error.where}", mend=error.mend, value=error.value)


def differences(answers: Sequence[Answer[Mapping[str, object]]], mend: str, *, of_node: bool = True) -> list[Fault]:
    """Name the nodes whose values differ from those of more than half of the ranks, key by key.

    Without such a majority nobody knows who is right: all are told, none is blamed.
    """
    told = [(node, value) for node, value in values_of(answers)]
    keys = sorted({key for _, value in told for key in value})
    faults: dict[tuple[str, str], Fault] = {}
    for key in keys:
        values = [(node, str(value.get(key, "not there"))) for node, value in told]
        usual, count = Counter(value for _, value in values).most_common(1)[0]
        if count == len(values):
            continue
        if 2 * count > len(values):
            for node, value in values:
                if value != usual:
                    what = f"{key} is {value}, on the others {usual}"
                    error = HardwareError(what, where=f"node {node}", mend=mend)
                    faults[node, key] = Fault(error, node if of_node else "")
        else:
            shown = "; ".join(f"{value} on {', '.join(nodes)}" for value, nodes in _by_value(values).items())
            faults["", key] = Fault(HardwareError(f"{key} differs: {shown}", where="nodes", mend=mend))
    return list(faults.values())


def _by_value(values: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    nodes: dict[str, list[str]] = {}
    for node, value in values:
        known = nodes.setdefault(value, [])
        if node not in known:
            known.append(node)
    return nodes
