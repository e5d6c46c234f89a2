"""What a run's starts have come to, in ``RUN/attempts.jsonl``, and what follows from it.

::

    {"event": "begin",   "attempt", "time", "nodes", "step"}                     a job starts; step: what is saved
    {"event": "verdict", "attempt", "time", "rank", "node", "code", "reason"}    a rank, just before it ends
    {"event": "blame",   "attempt", "time", "node", "reason", "certain"}         a node that spoilt the attempt
    {"event": "end",     "attempt", "time", "srun_code", "decision", "reason", "step"}

Enters: these events. Leaves: whether a start makes sense, whether a job starts again after its end, and which nodes it
leaves out: pure functions of the events. srun loses the exit codes of ranks as soon as it ends one of them (facts:
slurm.md), and a killed batch script tells nothing; so everyone writes down what he knows while he knows it, one line
by one write at the file's end. No torch in here: the batch script waits for these decisions.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.console import log
from phi3v_dist.errors import StoppedError, UserError

ATTEMPTS = "attempts.jsonl"
_BLAMED_TOO_OFTEN = 2  # attempts; one may be chance
_MEND = UserError.exit_code

Event = Mapping[str, Any]
Action = Literal["start", "nothing", "stop", "requeue", "leave"]


@dataclass(frozen=True)
class Decision:
    """``action``: start training; nothing (it is finished); stop, a person must act; requeue; leave it to Slurm."""

    action: Action
    reason: str


def tell_verdict(run_folder: str | Path, who: ClusterInfo, code: int, reason: str) -> None:
    """Write down how this rank ends. Never raises: the rank has something worse to tell."""
    _append(run_folder, "verdict", who.attempt, rank=who.rank, node=who.node_name, code=code, reason=reason)


def blame_node(
    run_folder: str | Path, who: ClusterInfo | str, node: str, reason: str, *, certain: bool = False
) -> None:
    """Write down that a node spoilt an attempt (or that of ``who``). ``certain``: measured, not concluded."""
    attempt = who if isinstance(who, str) else who.attempt
    _append(run_folder, "blame", attempt, node=node, reason=reason, certain=certain)


def tell_begin(run_folder: str | Path, attempt: str, nodes: Sequence[str], step: int) -> None:
    """Write down that an attempt starts, with ``step`` steps saved."""
    _append(run_folder, "begin", attempt, nodes=list(nodes), step=step)


def tell_end(run_folder: str | Path, attempt: str, decision: Decision, *, step: int, srun_code: int | None) -> None:
    """Write down what was decided at the end of an attempt."""
    told = {"srun_code": srun_code, "decision": decision.action, "reason": decision.reason, "step": step}
    _append(run_folder, "end", attempt, **told)


def _append(run_folder: str | Path, event: str, attempt: str, **told: Any) -> None:
    line = json.dumps({"event": event, "attempt": attempt, "time": round(time.time(), 3), **told}, ensure_ascii=False)
    try:
        descriptor = os.open(Path(run_folder) / ATTEMPTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        log.warning("%s/%s: %s can't be written down: %s", run_folder, ATTEMPTS, event, error.strerror)


def read_events(run_folder: str | Path) -> list[dict[str, Any]]:
    """All events, oldest first; a torn line (the disk was full) is passed over."""
    try:
        lines = (Path(run_folder) / ATTEMPTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
            events.append(event | {"event": event["event"], "attempt": str(event["attempt"])})
        except (ValueError, KeyError, TypeError):
            continue
    return events


def decide_begin(events: Sequence[Event], *, finished: bool, step: int, most_attempts: int) -> Decision:
    """Whether an attempt makes sense that would begin at ``step``. ``events``: those before it."""
    if finished:
        return Decision("nothing", "the run is finished already")
    begins = [event for event in events if event["event"] == "begin" and not _was_turned_away(events, event)]
    latest = begins[-most_attempts:]
    if len(latest) == most_attempts and all(event["step"] == step for event in latest):
        why = _reason_of(events, str(latest[-1]["attempt"]))
        return Decision("stop", f"{most_attempts} attempts in a row saved no step beyond {step}; the last one: {why}")
    return Decision("start", f"{step} steps are saved")


def decide_end(events: Sequence[Event], attempt: str, *, finished: bool, cancelled: bool) -> Decision:
    """What follows on the end of ``attempt``. ``cancelled``: by a person, Slurm says."""
    if finished:
        return Decision("nothing", "the run is finished")
    if cancelled:
        return Decision("leave", "the job was cancelled")
    reason = _reason_of(events, attempt)
    if any(event["code"] == _MEND for event in _of(events, attempt, "verdict")):
        return Decision("stop", reason)
    return Decision("requeue", reason)


def nodes_to_exclude(events: Iterable[Event]) -> dict[str, str]:
    """Node → last reason, of nodes that spoilt two attempts of the run, or were measured to be bad."""
    blames: dict[str, dict[str, str]] = {}
    certain = set()
    for event in events:
        if event["event"] == "blame":
            blames.setdefault(event["node"], {})[event["attempt"]] = event["reason"]
            if event.get("certain"):
                certain.add(event["node"])
    return {
        node: list(reasons.values())[-1]
        for node, reasons in blames.items()
        if node in certain or len(reasons) >= _BLAMED_TOO_OFTEN
    }


def _of(events: Iterable[Event], attempt: str, kind: str) -> list[Event]:
    return [event for event in events if event["event"] == kind and event["attempt"] == attempt]


def _was_turned_away(events: Iterable[Event], begin: Event) -> bool:
    """An attempt that ended before srun was called says nothing about the run."""
    return any(end["srun_code"] is None for end in _of(events, str(begin["attempt"]), "end"))


def _reason_of(events: Sequence[Event], attempt: str) -> str:
    """The words of the rank that knows most: a fault to mend, then another fault, then a request to stop."""
    verdicts = _of(events, attempt, "verdict")
    for wanted in (lambda code: code == _MEND, lambda code: code != StoppedError.exit_code, lambda code: True):
        for event in verdicts:
            if wanted(event["code"]):
                return str(event["reason"])
    blames = _of(events, attempt, "blame")
    return f"{blames[0]['node']}: {blames[0]['reason']}" if blames else "no rank could say why it ended"
