"""What a run's starts have come to, in ``RUN/attempts.jsonl``, and what follows from it.

::

    {"event": "begin",   "attempt", "time", "nodes", "step"}                     a job starts; step: what is saved
    {"event": "verdict", "attempt", "time", "rank", "node", "code", "reason"}    a rank, just before it ends
    {"event": "blame",   "attempt", "time", "node", "reason", "certain"}         a node that spoilt the attempt
    {"event": "end",     "attempt", "time", "srun_code", "decision", "reason", "step", "ending"}

Enters: these events. Leaves: whether a start makes sense, whether a job starts again after its end, and which nodes it
leaves out: pure functions of the events. srun loses the exit codes of ranks as soon as it ends one of them (facts:
slurm.md), and a killed batch script tells nothing; so everyone writes down what he knows while he knows it, one line
by one write at the file's end. Begin and end must be written: without them a job that can't work, on a full disk,
would be started again for ever. No torch in here: the batch script waits for these decisions.
"""

import errno
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from phi3v_dist.cluster.slurm import Ending
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.console import log
from phi3v_dist.errors import LostRankError, RunError, StoppedError, UserError
from phi3v_dist.files import write_json

ATTEMPTS = "attempts.jsonl"
FINISHED = "FINISHED"
_BLAMED_TOO_OFTEN = 2  # attempts; one may be chance
_MEND = UserError.exit_code
_TASK_LINE = re.compile(r"^srun: error: (?P<node>[^\s:\[,]+): tasks? (?P<task>[\d,-]+): (?P<what>.*)", re.MULTILINE)
_LAST_WORDS = re.compile(r"^(?:ERROR .*|[\w.]*(?:Error|Exception): .*|srun: error: .*)", re.MULTILINE)
_KILLED = re.compile(r"Killed|Bus error|Segmentation fault|Illegal instruction")

Event = Mapping[str, Any]
Action = Literal["start", "nothing", "stop", "requeue", "leave"]


@dataclass(frozen=True)
class Decision:
    """``action``: start training; nothing (it is finished); stop, a person must act; requeue; leave it to Slurm."""

    action: Action
    reason: str


def is_finished(run_folder: Path) -> bool:
    """Whether the run in this folder has taken its last step."""
    return (run_folder / FINISHED).exists()


def mark_finished(run_folder: Path, step: int) -> None:
    """Say that the run is over; a later start does nothing."""
    write_json(run_folder / FINISHED, {"step": step})


def make_run_folder(run_folder: Path) -> None:
    """Make the folder that events are written to. Raises ``RunError``."""
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the run folder can't be made: {error.strerror}"
        raise RunError(what, where=str(run_folder), mend="Set run_folder to a place that you may write to.") from None


def tell_verdict(run_folder: str | Path, who: ClusterInfo, code: int, reason: str) -> None:
    """Write down how this rank ends. Never raises: the rank has something worse to tell."""
    _try_to_append(run_folder, "verdict", who.attempt, rank=who.rank, node=who.node_name, code=code, reason=reason)


def blame_node(
    run_folder: str | Path, who: ClusterInfo | str, node: str, reason: str, *, certain: bool = False
) -> None:
    """Write down that a node spoilt an attempt (or that of ``who``). ``certain``: measured, not concluded."""
    attempt = who if isinstance(who, str) else who.attempt
    _try_to_append(run_folder, "blame", attempt, node=node, reason=reason, certain=certain)


def tell_lost_nodes(run_folder: str | Path, who: ClusterInfo, nodes: Iterable[str], reason: str) -> None:
    """Write down that this rank ends for want of others, and the nodes that they are missing from."""
    tell_verdict(run_folder, who, LostRankError.exit_code, reason)
    for node in nodes:
        blame_node(run_folder, who, node, reason)


def tell_begin(run_folder: str | Path, attempt: str, nodes: Sequence[str], step: int) -> None:
    """Write down that an attempt starts, with ``step`` steps saved. Raises ``RunError``."""
    _append(run_folder, "begin", attempt, nodes=list(nodes), step=step)


def tell_end(
    run_folder: str | Path, attempt: str, decision: Decision, *, step: int, srun_code: int | None, ending: Ending
) -> None:
    """Write down what was decided at the end of an attempt. Raises ``RunError``."""
    told = {"srun_code": srun_code, "decision": decision.action, "reason": decision.reason, "step": step}
    _append(run_folder, "end", attempt, **told, ending=ending)


def _try_to_append(run_folder: str | Path, event: str, attempt: str, **told: Any) -> None:
    try:
        _append(run_folder, event, attempt, **told)
    except RunError as error:
        log.warning("%s: %s", event, error)


def _append(run_folder: str | Path, event: str, attempt: str, **told: Any) -> None:
    """One event at the file's end, on the disk when this returns. Raises ``RunError``."""
    path = Path(run_folder) / ATTEMPTS
    line = json.dumps({"event": event, "attempt": attempt, "time": round(time.time(), 3), **told}, ensure_ascii=False)
    try:
        with open(path, "a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            # By a disk that was full. Another rank's line, half written, looks the same: that gives an empty line.
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            content = torn * b"\n" + f"{line}\n".encode()
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except OSError as error:
        mend = "Free space or mend its permissions, then submit again"
        raise RunError(f"can't be written: {error.strerror}", where=str(path), mend=mend) from None


def read_events(run_folder: str | Path) -> list[dict[str, Any]]:
    """All events, oldest first; torn lines are passed over."""
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


def decide_begin(events: Sequence[Event], attempt: str, *, finished: bool, step: int, most_attempts: int) -> Decision:
    """Whether ``attempt`` makes sense, which would begin at ``step``.

    Only earlier attempts of the same Slurm job are counted: who submits again has mended something. Those that Slurm
    took the nodes from (preemption, a lost node, a person's requeue) say nothing about the run.
    """
    if finished:
        return Decision("nothing", "the run is finished already")
    latest = [event for event in _begins(events) if job_of(event) == job_of(attempt) and event["attempt"] != attempt]
    latest = [event for event in latest if not _was_taken_away(events, event)]
    latest = latest[-most_attempts:]
    if len(latest) == most_attempts and all(event["step"] == step for event in latest):
        why = _reason_of(events, str(latest[-1]["attempt"]))
        return Decision("stop", f"{most_attempts} attempts in a row saved no step beyond {step}; the last one: {why}")
    return Decision("start", f"{step} steps are saved")


def decide_end(
    events: Sequence[Event],
    attempt: str,
    *,
    finished: bool,
    ending: Ending,
    last_words: str = "",
) -> Decision:
    """What follows on the end of ``attempt``.

    ``ending``: what Slurm does to the job; ``last_words``: the reason where no rank could tell one.
    """
    if finished:
        return Decision("nothing", "the run is finished")
    if ending == "cancelled":
        return Decision("leave", "the job was cancelled")
    codes = [event["code"] for event in _of(events, attempt, "verdict")]
    reason = _reason_of(events, attempt, last_words)
    if _MEND in codes:
        return Decision("stop", reason)
    return Decision("requeue", f"the time limit; {reason}" if ending == "time limit" else reason)


def killed_node(srun_errors: str) -> tuple[str, str] | None:
    """Node and what happened, where srun's first word on a task is that a signal killed it on its node.

    Later such lines are the consequence: srun kills the other tasks.
    """
    first = _TASK_LINE.search(srun_errors)
    return (first["node"], f"task {first['task']}: {first['what']}") if first and _KILLED.match(first["what"]) else None


def last_words(srun_errors: str) -> str:
    """The line of a rank's standard error that most likely says why it ended; empty when there is none."""
    lines = _LAST_WORDS.findall(srun_errors)
    return lines[0] if lines else ""


def latest_begin(events: Sequence[Event], attempt: str) -> Event | None:
    """The last attempt before ``attempt`` in which srun was called."""
    return next((event for event in reversed(_begins(events)) if event["attempt"] != attempt), None)


def jobs_at_work(events: Sequence[Event], attempt: str) -> list[str]:
    """Other Slurm jobs that began before ``attempt`` and have not told of their end."""
    before = list(takewhile(lambda event: (event["event"], event["attempt"]) != ("begin", attempt), events))
    begun = {job_of(event): event["attempt"] for event in before if event["event"] == "begin"}
    begun.pop(job_of(attempt), None)
    return [job for job, latest in begun.items() if not _of(events, latest, "end")]


def job_of(attempt: Event | str) -> str:
    """Slurm's number of the job that an attempt belongs to."""
    return str(attempt if isinstance(attempt, str) else attempt["attempt"]).rpartition(".")[0]


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


def _begins(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event["event"] == "begin" and not _was_turned_away(events, event)]


def _was_turned_away(events: Iterable[Event], begin: Event) -> bool:
    """An attempt that ended before srun was called says nothing about the run."""
    return any(end["srun_code"] is None for end in _of(events, str(begin["attempt"]), "end"))


def _was_taken_away(events: Iterable[Event], begin: Event) -> bool:
    """Whether Slurm itself ended the attempt to start it again."""
    return any(end.get("ending") == "requeued" for end in _of(events, str(begin["attempt"]), "end"))


def _reason_of(events: Sequence[Event], attempt: str, last_words: str = "") -> str:
    """The words of the rank that knows most: a fault to mend, then another fault, then a request to stop."""
    verdicts = _of(events, attempt, "verdict")
    for wanted in (lambda code: code == _MEND, lambda code: code != StoppedError.exit_code, lambda code: True):
        for event in verdicts:
            if wanted(event["code"]):
                return str(event["reason"])
    blames = _of(events, attempt, "blame")
    if blames:
        return f"{blames[0]['node']}: {blames[0]['reason']}"
    ends = [str(event["reason"]) for event in _of(events, attempt, "end")]
    return last_words or next(iter(ends), "") or "nobody could say why it ended"
