"""What one rank was doing when it or another had no time left: the report that ``watchdog`` writes and ``hang`` reads.

Enters: the running process. Leaves: plain values: position, Python stacks of all threads, count of collectives.
"""

import linecache
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_LINE_OF_STACK = re.compile(r'  File "(.*)", line (\d+) in (.*)')


@dataclass(frozen=True)
class Frame:
    """One line of a Python stack; ``text``: the source line, where it can be read."""

    file: str
    line: int
    function: str
    text: str = ""

    @property
    def place(self) -> str:
        """FILE:LINE, from the package's name on."""
        parts = Path(self.file).parts
        tops = [n for n, part in enumerate(parts) if part in ("phi3v_dist", "site-packages", "launch", "tools")]
        start = tops[-1] + (parts[tops[-1]] == "site-packages") if tops else -2
        return f"{'/'.join(parts[start:])}:{self.line}"


@dataclass(frozen=True)
class Stack:
    """A thread's frames, innermost last. ``native``: made by a library (autograd), unknown to Python's threading."""

    thread: str
    frames: tuple[Frame, ...]
    native: bool = False


@dataclass(frozen=True)
class Report:
    """What one rank was doing: its last mark, the last module that began, its stacks (main thread first).

    ``marks``: marks made in this micro-step; ``modules``: modules begun since the last mark; ``seconds``: since then.
    ``collectives``: how many this rank has begun in the group of all ranks; under NCCL, where Python runs ahead of the
    GPU, often the only trace of a skipped one.
    """

    rank: int
    node: str
    phase: str
    step: int
    micro_step: int
    seconds: float
    marks: int = 0
    module: str = ""
    modules: int = 0
    collectives: int = 0
    samples: tuple[int | str, ...] = ()
    stacks: tuple[Stack, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Report":
        """What ``as_dict`` gave, also after JSON."""
        stacks = tuple(
            Stack(stack["thread"], tuple(Frame(**frame) for frame in stack["frames"]), stack["native"])
            for stack in values["stacks"]
        )
        return cls(**{**values, "samples": tuple(values["samples"]), "stacks": stacks})


def line_of_main_thread(lines: Sequence[str]) -> Frame | None:
    """Read it from what faulthandler wrote: the main thread comes last, its innermost frame first."""
    heads = [number for number, line in enumerate(lines) if "(most recent call first)" in line]
    match = _LINE_OF_STACK.fullmatch(lines[heads[-1] + 1]) if heads and heads[-1] + 1 < len(lines) else None
    return Frame(match[1], int(match[2]), match[3]) if match else None


def current_stacks(without: str) -> Iterator[Stack]:
    """The Python stacks of all threads, the main thread's first, ``without`` those whose name begins so."""
    threads = {thread.ident: thread for thread in threading.enumerate()}
    main = threading.main_thread().ident
    for ident, frame in sorted(sys._current_frames().items(), key=lambda item: item[0] != main):
        name = threads[ident].name if ident in threads else f"native-{ident}"
        if name.startswith(without):
            continue
        frames = []
        inner: Any = frame
        while inner is not None:
            file, line = inner.f_code.co_filename, inner.f_lineno
            frames.append(Frame(file, line, inner.f_code.co_name, linecache.getline(file, line).strip()))
            inner = inner.f_back
        yield Stack(name, tuple(reversed(frames)), native=ident not in threads)


def collectives_begun() -> int:
    """How many collectives this rank has begun in the group of all ranks; 0 where there is none or it can't be told."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return 0
    try:
        return distributed.group.WORLD._get_sequence_number_for_group()
    except (AttributeError, RuntimeError):
        return 0
