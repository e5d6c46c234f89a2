"""A measured figure with its target, a function run in a process of its own, and the memory that a process has."""

import multiprocessing
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """``least`` or ``most``: the target, None where the figure is only shown."""

    what: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        """The target and whether it is met."""
        if self.least is None and self.most is None:
            return ""
        met = self.value >= self.least if self.least is not None else self.value <= self.most
        return f"{'≥' if self.least is not None else '≤'} {self.least or self.most:g}: {'met' if met else 'MISSED'}"

    def as_dict(self) -> dict[str, Any]:
        """All fields and the verdict."""
        return asdict(self) | {"verdict": self.verdict}


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` returns when a fresh process calls it; an exception arrives as its text."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(False)
    process = context.Process(target=_call, args=(send, function, arguments))
    process.start()
    send.close()
    try:
        answer = receive.recv()
    except EOFError:
        answer = f"the process ended with code {process.exitcode}"
    process.join()
    return answer


def _call(pipe: Any, function: Callable[..., Any], arguments: tuple) -> None:
    try:
        pipe.send(function(*arguments))
    except Exception as error:  # a peer's fault is a line in our table, not our end
        pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:200])
