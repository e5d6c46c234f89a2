"""Why a run hangs: what each rank was doing → the ranks at fault, what the others wait for, one line of text.

Enters: the reports of the ranks that could still write one (``cluster/watchdog.py``). Leaves: a ``Hang``. Pure: no
clock, no files, no torch. All ranks run the same order of collectives (DESIGN, decision 5), so a rank is at fault

1. "silent": when it wrote nothing: frozen, dead, cut off, or Python's lock in it is held for ever;
2. "busy": when it is in no collective while others wait in one;
3. "elsewhere": when it waits in another collective, module or step than most ranks do.

"unclear" is the rest: no rank differs from the others, or it can't be told which of them is wrong.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from phi3v_dist.cluster.hang_report import Frame, Report, Stack

Kind = Literal["silent", "busy", "elsewhere", "unclear"]

_COLLECTIVES = ("torch/distributed/distributed_c10d.py", "torch/distributed/rendezvous.py", "deepspeed/comm/")
# Frames between a collective and the line that asked for it: wrappers for logs, timers and compilers.
_WRAPPERS = re.compile(
    r"torch/distributed/|deepspeed/(comm|utils)/|torch/(_dynamo|_compile|_utils|utils/_contextlib)"
    r"|/(contextlib|functools|typing_extensions|warnings)\.py$"
)
_AUTOGRAD = "torch/autograd/graph.py"
# A wait on a handle has no Python frame of its own: the last line of Python is the one that calls it.
_WAITS_ON_HANDLE = re.compile(r"\.wait\(")
_WAITS_ON_DEVICE = re.compile(r"\.(item|tolist|cpu|numpy|synchronize)\(")
_PYTHON_WAITS = re.compile(r"/(threading|queue|selectors|subprocess|multiprocessing/\w+|concurrent/futures/\w+)\.py$")
_MOST_SAMPLES_TOLD = 8


@dataclass(frozen=True)
class Hang:
    """The merged explanation: ``text`` (one line), the ranks at fault and their nodes, where all stacks are."""

    text: str
    kind: Kind
    ranks: tuple[int, ...]
    nodes: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class Place:
    """Where a rank is in the common order. ``collective``: empty when it waits for nobody; ``number``: see Report."""

    step: int
    micro_step: int
    phase: str
    module: str
    collective: str
    number: int
    line: str
    progress: tuple[int, ...] = field(compare=False)

    def told_of(self, num_ranks: int) -> str:
        """What one rank or several do here."""
        verb = ("waits", "is") if num_ranks == 1 else ("wait", "are")
        number = f" (collective {self.number})" if self.number else ""
        doing = f"{verb[0]} in {self.collective}{number} at" if self.collective else f"{verb[1]} in"
        module = f", {self.module}" if self.module else ""
        return f"{doing} {self.line} (step {self.step}, micro-step {self.micro_step}, {self.phase}{module})"


def explain(
    reports: Collection[Report],
    num_ranks: int,
    folder: Path,
    *,
    nodes: Mapping[int, str] | None = None,
    locked: Mapping[int, Frame | None] | None = None,
) -> Hang:
    """Merge the reports. ``nodes``: names of the nodes of all ranks; ``locked``: for ranks whose watchdog could not run
    because Python's lock was held, the line of their main thread.
    """
    names = dict(nodes or {}) | {report.rank: report.node for report in reports}
    places = {report.rank: place_of(report) for report in reports}
    silent = tuple(rank for rank in range(num_ranks) if rank not in places)
    locked = {rank: frame for rank, frame in (locked or {}).items() if rank in silent}
    if silent:
        kind, guilty = "busy" if len(locked) == len(silent) else "silent", silent
        told = _tell_silent(silent, locked, names)
    else:
        kind, guilty = _find_guilty(places)
        told = _tell_guilty(guilty, kind, places, reports, names)
    others = {rank: place for rank, place in places.items() if rank not in guilty or kind == "unclear"}
    seconds = max((report.seconds for report in reports), default=0.0)
    parts = [told, _tell_others(others, num_ranks)]
    text = f"no progress for {seconds:.0f} s: {'; '.join(filter(None, parts))}. All stacks: {folder}"
    guilty_nodes = tuple(dict.fromkeys(names[rank] for rank in guilty if names.get(rank)))
    return Hang(" ".join(text.split()), kind, guilty, guilty_nodes, folder)


def place_of(report: Report) -> Place:
    """Read a rank's place from its report: in which collective it waits, and which line asked for that."""
    frames = _waiting_frames(report.stacks)
    collective, asking = _collective(frames)
    line = _line(frames if asking is None else asking, with_text=not collective)
    progress = (report.step, report.micro_step, report.marks, report.modules)
    number = report.collectives if collective else 0
    return Place(report.step, report.micro_step, report.phase, report.module, collective, number, line, progress)


def _waiting_frames(stacks: Sequence[Stack]) -> tuple[Frame, ...]:
    """The main thread's frames; in a backward pass on a GPU those of the autograd thread that runs Python."""
    main = stacks[0].frames if stacks else ()
    if main and main[-1].file.endswith(_AUTOGRAD):
        native = [stack.frames for stack in stacks[1:] if stack.native and stack.frames]
        native.sort(key=lambda frames: bool(_collective(frames)[0]))
        return native[-1] if native else main
    return main


def _collective(frames: Sequence[Frame]) -> tuple[str, Sequence[Frame] | None]:
    """Name of the collective that these frames end in ("" for none), and the frames that asked for it."""
    outside = len(frames)
    while outside and _WRAPPERS.search(frames[outside - 1].file):
        outside -= 1
    inside = [frame for frame in frames[outside:] if any(part in frame.file for part in _COLLECTIVES)]
    if inside:
        public = [frame.function for frame in inside if not frame.function.startswith("_")]
        torchs = [frame.function for frame in inside if _COLLECTIVES[0] in frame.file]
        return (torchs or public or [inside[-1].function])[0], frames[:outside]
    innermost = frames[-1] if frames else None
    if innermost is None or _PYTHON_WAITS.search(innermost.file):
        return "", None
    if _WAITS_ON_HANDLE.search(innermost.text):
        return "a handle's wait", frames
    if _WAITS_ON_DEVICE.search(innermost.text):
        return "a wait for its device", frames
    return "", None


def _line(frames: Sequence[Frame], with_text: bool) -> str:
    """``function FILE:LINE`` of the innermost frame, and of ours that led there when it lies in a library.

    ``with_text``: also the source line, since what is called in C has no frame of its own.
    """
    if not frames:
        return "no Python"
    ours = [frame for frame in frames if "phi3v_dist" in Path(frame.file).parts]
    text = f" [{frames[-1].text}]" if with_text and frames[-1].text else ""
    line = f"{frames[-1].function} {frames[-1].place}{text}"
    if not ours or ours[-1] is frames[-1]:
        return line
    return f"{line}, called from {ours[-1].place}"


def _find_guilty(places: Mapping[int, Place]) -> tuple[Kind, tuple[int, ...]]:
    everyone = sorted(places)
    busy = tuple(rank for rank in everyone if not places[rank].collective)
    if busy and len(busy) < len(everyone):
        return "busy", busy
    if busy:  # nobody waits in a collective: kernels run later than Python, so who lags in Python holds up the rest
        newest = max(places[rank].progress for rank in everyone)
        behind = tuple(rank for rank in everyone if places[rank].progress[:2] < newest[:2])
        return ("busy", behind) if behind else ("unclear", ())
    groups = _groups(places)
    if len(groups) == 1:
        return "unclear", ()
    if len(groups[0]) > len(groups[1]):
        return "elsewhere", tuple(sorted(rank for group in groups[1:] for rank in group))
    tied = [group for group in groups if len(group) == len(groups[0])]
    furthest = max(places[group[0]].progress for group in tied)
    ahead = [group for group in tied if places[group[0]].progress == furthest]
    if len(ahead) > 1:
        return "unclear", ()
    astray = ahead + [group for group in groups if len(group) < len(groups[0])]
    return "elsewhere", tuple(sorted(rank for group in astray for rank in group))


def _groups(places: Mapping[int, Place]) -> list[tuple[int, ...]]:
    """Ranks by equal place, the largest group first."""
    groups: dict[Place, list[int]] = defaultdict(list)
    for rank in sorted(places):
        groups[places[rank]].append(rank)
    return sorted(map(tuple, groups.values()), key=lambda group: (-len(group), group))


def _tell_silent(silent: Iterable[int], locked: Mapping[int, Frame | None], names: Mapping[int, str]) -> str:
    told = []
    mute = [rank for rank in silent if rank not in locked]
    if mute:
        told.append(f"{_named(mute, names)} gave no sign (frozen, dead or cut off)")
    for rank in sorted(locked):
        frame = locked[rank]
        where = f", its main thread is in {frame.function} {frame.place}" if frame else ""
        told.append(f"{_named([rank], names)} holds Python's lock{where}")
    return "; ".join(told)


def _tell_guilty(
    guilty: Sequence[int],
    kind: Kind,
    places: Mapping[int, Place],
    reports: Iterable[Report],
    names: Mapping[int, str],
) -> str:
    if kind == "unclear" and len(_groups(places)) == 1:
        waits = bool(places[min(places)].collective)
        return "no rank differs from the others, " + ("look at the network" if waits else "look at disks and the limit")
    if kind == "unclear":
        return "ranks are at different places, and which of them left the common order can't be told"
    said = "left the common order" if kind == "elsewhere" else "held the others up"
    samples = {report.rank: report.samples for report in reports}
    told = []
    for group in _groups({rank: places[rank] for rank in guilty}):
        keys = [key for rank in group for key in samples[rank]]
        shown = ", ".join(map(str, keys[:_MOST_SAMPLES_TOLD])) + (", …" if len(keys) > _MOST_SAMPLES_TOLD else "")
        told.append(
            f"{_named(group, names)} {said}: {_doing(group, places)}" + (f" with samples {shown}" if keys else "")
        )
    return "; ".join(told)


def _tell_others(places: Mapping[int, Place], num_ranks: int) -> str:
    groups = _groups(places)
    if not groups or num_ranks == 1:
        return "; ".join(_doing(group, places) for group in groups)
    shown = groups[:3]
    told = [f"{_named(group, {})} {places[group[0]].told_of(len(group))}" for group in shown]
    rest = sum(map(len, groups[3:]))
    return "; ".join([*told, *([f"{rest} ranks are at other places"] if rest else [])])


def _doing(group: Sequence[int], places: Mapping[int, Place]) -> str:
    return f"{'it' if len(group) == 1 else 'they'} {places[group[0]].told_of(len(group))}"


def _named(ranks: Sequence[int], names: Mapping[int, str]) -> str:
    """``rank 3 (node n4)``, ``ranks 3 to 7``, ``ranks 1, 5``."""
    ranks = sorted(ranks)
    nodes = list(dict.fromkeys(names[rank] for rank in ranks if names.get(rank)))
    where = f" (node{'s' * (len(nodes) > 1)} {', '.join(nodes)})" if nodes else ""
    if len(ranks) == 1:
        return f"rank {ranks[0]}{where}"
    runs = len(ranks) > 2 and ranks[-1] - ranks[0] == len(ranks) - 1
    return f"ranks {f'{ranks[0]} to {ranks[-1]}' if runs else ', '.join(map(str, ranks))}{where}"
