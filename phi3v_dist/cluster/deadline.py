"""Ends a rank that waits too long, and says whom all wait for.

Enters: marks, "this rank is at X now". Leaves: nothing, or after ``seconds`` without a new mark one line about the
ranks that don't answer (frozen, killed, cut off) or are behind the others, and the exit code of a failed machine.
Marks and heartbeats lie in the store where the ranks have met, over a second connection: the main thread holds the
first one while it waits. For the checks before training, which happen before anything is known about shared folders;
training itself is watched by watchdog.py, which writes files.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from phi3v_dist.cluster.store import ANSWER_SECONDS, NoAnswerError, connect, within
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.errors import LostRankError

_BEAT_SECONDS = 0.5
_SILENT_SECONDS = 3.0  # without a heartbeat, when the time is over
_GONE_SECONDS = 15.0  # without one, whatever time is left
_LOOK_SECONDS = 3.0
_ENDS = "preflight/ends"  # set by the rank that speaks
_CONNECT_SECONDS = 30.0
_NO_ANSWER = "doesn't answer any more (killed, frozen, or cut off)"
_MEND = "The same command may work on other nodes; look at this one: dmesg, nvidia-smi, its network."


@dataclass(frozen=True)
class Mark:
    """Where a rank is: its ``number``-th mark. ``beat`` rises as long as the process runs."""

    rank: int
    node: str
    number: int
    beat: int
    place: str


class Deadline:
    """``on_end``: called on the rank that speaks, with the guilty ranks' nodes and the line, before all end."""

    def __init__(self, who: ClusterInfo, seconds: float, on_end: Callable[[set[str], str], None]) -> None:
        """Start watching. Called once the process group stands."""
        self._who, self._seconds, self._on_end = who, seconds, on_end
        self._place, self._number = "start", 0
        self._until = time.monotonic() + seconds
        self._stopped, self._others_speak = threading.Event(), False
        self._explaining = threading.Event()  # the heart beats on meanwhile, or whoever speaks would call it silent
        port = int(os.environ["MASTER_PORT"])  # set by process_group
        self._beats, self._looks = (connect(who, port, _CONNECT_SECONDS) for _ in range(2))  # one thread at a time each
        for watch in (self._beat, self._watch):
            threading.Thread(target=watch, name="deadline", daemon=True).start()

    def at(self, place: str, patience: float = 1.0) -> None:
        """Say where this rank is; it has ``patience`` times the usual seconds until the next mark."""
        self._until = time.monotonic() + patience * self._seconds
        self._place, self._number = place, self._number + 1

    def close(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def fail(self, error: BaseException) -> None:
        """End this rank after an exception that others don't know of, or that another rank's end has caused."""
        self._let_the_first_speak()
        told = (str(error).strip().splitlines() or [""])[0]
        if silent := self._silent():
            self._say(silent, f"{_named(silent)} {_NO_ANSWER} in '{self._place}'")
        else:
            own = self._own_mark(0)
            self._say([own], f"{_named([own])} failed in '{self._place}': {type(error).__name__}: {told}")

    def _beat(self) -> None:
        beat = 0
        while not self._stopped.wait(_BEAT_SECONDS):
            beat += 1
            mark = self._own_mark(beat)
            with contextlib.suppress(RuntimeError):  # rank 0 is gone: the others' time-out will tell
                self._beats.set(f"preflight/{mark.rank}", f"{mark.number}\t{mark.beat}\t{mark.node}\t{mark.place}")

    def _own_mark(self, beat: int) -> Mark:
        return Mark(self._who.rank, self._who.node_name, self._number, beat, self._place)

    def _watch(self) -> None:
        """End behind another rank, when the time is over, or when a rank is gone."""
        looks = self._who.rank in (0, self._who.num_ranks - 1)  # two are enough, on two nodes if there are two
        beats: dict[int, int] = {}
        heard: dict[int, float] = {}
        looked = 0.0
        while not self._stopped.wait(_BEAT_SECONDS) and not self._explaining.is_set():
            now, marks = time.monotonic(), None
            with contextlib.suppress(NoAnswerError):
                if within(lambda: self._looks.check([_ENDS])) and not self._explaining.is_set():
                    self._end_behind_another()
                if looks and now - looked > _LOOK_SECONDS:
                    looked, marks = now, within(self._marks)
            for mark in marks or ():
                if beats.get(mark.rank) != mark.beat:
                    beats[mark.rank], heard[mark.rank] = mark.beat, now
            if now > self._until or (heard and now - min(heard.values()) > _GONE_SECONDS):
                self._explain()

    def _marks(self) -> list[Mark]:
        """The marks of all ranks; one that has none yet is at the start."""
        marks = []
        for rank in range(self._who.num_ranks):
            key = f"preflight/{rank}"
            if self._looks.check([key]):
                number, beat, node, place = self._looks.get(key).decode().split("\t")
                marks.append(Mark(rank, node, int(number), int(beat), place))
            else:
                marks.append(Mark(rank, "?", -1, -1, "start"))
        return marks

    def _silent(self) -> list[Mark]:
        """Ranks whose heart doesn't beat; where the store can't be reached that of rank 0, which holds it."""
        try:
            before = within(self._marks)
            time.sleep(_SILENT_SECONDS)
            after = within(self._marks)
        except NoAnswerError:
            return [Mark(0, self._who.master_addr, 0, 0, "?")]
        pairs = zip(before, after, strict=True)
        return [new for old, new in pairs if new.beat == old.beat and new.rank != self._who.rank]

    def _explain(self) -> None:
        """The time is over: name whom all wait for."""
        place = self._place
        self._let_the_first_speak()
        guilty = self._silent()
        line = f"{_named(guilty)} {_NO_ANSWER} in '{place}'"
        if not guilty:
            marks = within(self._marks)
            guilty = [mark for mark in marks if mark.number < max(mark.number for mark in marks)]
            line = f"{_named(guilty)} is still in '{guilty[0].place}'" if guilty else f"all are in '{place}'"
        self._say(guilty, f"{line}, the others wait")

    def _let_the_first_speak(self) -> None:
        """Return on one rank, the first that comes; the others end. Without a store on one rank of each node."""
        self._explaining.set()
        try:
            if self._others_speak:
                self._end_behind_another()
            first = within(lambda: self._looks.add(_ENDS, 1)) == 1
        except NoAnswerError:
            first = self._who.rank_of_node == 0
        if not first:
            self._end_behind_another()

    def _end_behind_another(self) -> None:
        self._others_speak = True
        time.sleep(_SILENT_SECONDS + ANSWER_SECONDS)
        _end()

    def _say(self, guilty: Sequence[Mark], line: str) -> None:
        with contextlib.suppress(Exception):  # what it writes to may be what is broken
            self._on_end({mark.node for mark in guilty}, line)
        print(f"{LostRankError.label} preflight: {line}. {_MEND}", file=sys.stderr, flush=True)
        time.sleep(4 * _BEAT_SECONDS)  # all see that somebody has spoken, before the store may end with this process
        _end()


def _named(marks: Sequence[Mark]) -> str:
    return ", ".join(f"rank {mark.rank} on node {mark.node}" for mark in marks)


def _end() -> None:
    sys.stdout.flush()
    os._exit(LostRankError.exit_code)
