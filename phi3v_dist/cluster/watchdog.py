"""A rank that hangs is noticed, explains itself, and ends: nobody waits for ever.

Enters: marks of where this rank is (``at``), and how long it may take to the next one. Leaves, only when that time is
over on some rank: every rank's report and one explanation (``cluster/hang.py``) in a folder that all ranks share, one
line on standard error from all of them together, and exit code 70 on each.

One thread per rank looks once a second: is my time over, or has another rank reported? Then, from first report to
exit in about 10 s: report, wait for the others' reports, the lowest rank that reported merges. A thread can't run
where Python's lock is held for ever: there a timer in C (faulthandler) writes the stacks and ends the rank.

The folder belongs to one attempt::

    rank-N.json         report of rank N
    rank-N.stacks.txt   first line: its node; then its stacks, where Python's lock was held
    merging             the name of the rank that merges: created once
    explanation.json    written last
"""

import contextlib
import faulthandler
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from phi3v_dist.cluster.hang import Hang, explain
from phi3v_dist.cluster.hang_report import Frame, Report, collectives_begun, current_stacks, line_of_main_thread
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.errors import LostRankError
from phi3v_dist.files import write_json

_NAME = "watchdog"
_TICK_SECONDS = 1.0
_LOOK_SECONDS = 0.2  # between looks at the folder while waiting for the others
_GRACE_SECONDS = 5.0  # for the others' reports
_MERGING_SECONDS = 4.0  # for another rank's explanation
_LOCKED_SECONDS = 2.5  # after the limit, less than the grace: so the stacks are there when the others merge
_END_SECONDS = 13.0  # after which this rank ends whatever holds it up: a hung disk, on_hang
_MOST_SAMPLES_KEPT = 64


@dataclass(frozen=True)
class _Mark:
    """Where this rank is. ``number``: of marks in this micro-step."""

    made: float
    phase: str
    step: int
    micro_step: int
    samples: Sequence[int | str]
    patience: float
    number: int


class Watchdog:
    """Watches one rank from ``start`` to ``stop``.

    ``folder``: shared by all ranks, of this attempt alone. ``limit_seconds``: between two marks. ``on_hang``: called
    with the explanation on the one rank that merges; what it raises never stops the exit.
    """

    def __init__(
        self, folder: Path, who: ClusterInfo, limit_seconds: float, on_hang: Callable[[Hang], None] = lambda hang: None
    ) -> None:
        self._folder, self._who, self._limit_seconds, self._on_hang = Path(folder), who, limit_seconds, on_hang
        self._stacks: IO[bytes] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=_NAME, daemon=True)
        self._module, self._modules = "", 0
        self._mark = _Mark(time.monotonic(), "start", 0, 0, (), 1.0, 0)

    def start(self) -> None:
        """Begin to watch; the first mark's time runs from here."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stacks = open(self._stacks_path(self._who.rank), "wb", buffering=0)  # noqa: SIM115, open till the end
        self._stacks.write(f"node {self._who.node_name}\n".encode())
        self.at("start")
        self._thread.start()

    def at(
        self,
        phase: str,
        *,
        step: int = 0,
        micro_step: int = 0,
        samples: Sequence[int | str] = (),
        patience: float = 1.0,
    ) -> None:
        """Mark where this rank is, and give it ``limit_seconds`` × ``patience`` until the next mark."""
        last = self._mark
        number = last.number + 1 if (last.step, last.micro_step) == (step, micro_step) else 0
        self._module, self._modules = "", 0
        self._mark = _Mark(time.monotonic(), phase, step, micro_step, samples, patience, number)

    def watch_modules(self, model: Any) -> None:
        """Remember which of the model's larger modules began last: layers of any list, and modules near the top.

        The hooks come before DeepSpeed's, whose own gather a module's weights and may wait; they touch no weight.
        """
        from torch.nn import ModuleList

        lists = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, ModuleList))
        for name, module in model.named_modules():
            layer = any(name.startswith(prefix) and "." not in name[len(prefix) :] for prefix in lists)
            if layer or (name and name.count(".") < 2 and not isinstance(module, ModuleList)):
                module.register_forward_pre_hook(self._hook(name), prepend=True)

    def stop(self) -> None:
        """End watching, in a ``finally``; an empty folder is removed.

        Where a hang is being explained this never returns: the main thread may have met an error only because its
        peers ended a moment earlier.
        """
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self._stacks is not None:
            self._stacks.close()
            self._stacks = None
            with contextlib.suppress(OSError):
                self._stacks_path(self._who.rank).unlink()
                self._folder.rmdir()

    def _hook(self, name: str) -> Callable[..., None]:
        def begins(module: Any, inputs: Any) -> None:
            self._module = name
            self._modules += 1

        return begins

    def _stacks_path(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.stacks.txt"

    # ---- the watching thread ----

    def _watch(self) -> None:
        tick_seconds = min(_TICK_SECONDS, self._limit_seconds / 4)
        stopped = False
        while not stopped:
            mark = self._mark
            left = mark.made + self._limit_seconds * mark.patience - time.monotonic()
            # That this thread runs at all shows that Python's lock is free.
            assert self._stacks is not None
            faulthandler.dump_traceback_later(max(left, 0.0) + _LOCKED_SECONDS, exit=True, file=self._stacks)
            if left < 0 or self._another_reported():
                self._end()
            stopped = self._stopped.wait(tick_seconds)
        # A rank that was frozen, and stops because its peers are gone, leaves the word to the one that named it.
        if self._another_reported():
            self._end()

    def _another_reported(self) -> bool:
        # Listed, not asked for by name: NFS looks at a folder anew when it is opened, but remembers missing names.
        try:
            return any(name.startswith("rank-") and name.endswith(".json") for name in os.listdir(self._folder))
        except OSError:
            return False

    def _end(self) -> None:
        """Report, let one rank merge, end this process."""
        code = LostRankError.exit_code
        faulthandler.dump_traceback_later(_END_SECONDS + _LOCKED_SECONDS, exit=True, file=self._stacks)
        last_resort = threading.Timer(_END_SECONDS, os._exit, (code,))
        last_resort.daemon, last_resort.name = True, f"{_NAME}, last resort"
        last_resort.start()
        try:
            self._explain_or_wait()
        except Exception as error:
            report = self._report()
            node = f" (node {report.node})" if report.node else ""
            _say(
                f"rank {report.rank}{node}: no progress for {report.seconds:.0f} s in {report.phase} of step "
                f"{report.step}, and {self._folder} can't be written or read ({error!r})"
            )
        finally:
            os._exit(code)

    def _explain_or_wait(self) -> None:
        if self._explained():
            return  # this rank was frozen until now, and the others have named it
        write_json(self._folder / f"rank-{self._who.rank}.json", self._report().as_dict())
        self._wait(_GRACE_SECONDS, self._all_told)
        lowest = min(self._reports()) == self._who.rank
        if not lowest and self._wait(_MERGING_SECONDS, self._explained):
            return
        if self._claim():
            self._merge()
        else:
            self._wait(_MERGING_SECONDS, self._explained)

    def _wait(self, seconds: float, done: Callable[[], bool]) -> bool:
        until = time.monotonic() + seconds
        while not done():
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def _explained(self) -> bool:
        return "explanation.json" in os.listdir(self._folder)

    def _claim(self) -> bool:
        """Whether this rank is the first that wants to merge."""
        try:
            with open(self._folder / "merging", "x", encoding="utf-8") as file:
                file.write(f"rank {self._who.rank}\n")
        except FileExistsError:
            return False
        return True

    def _merge(self) -> None:
        reports, ranks = self._reports(), self._ranks_with("stacks.txt")
        nodes = {rank: self._stack_lines(rank)[0].removeprefix("node ") for rank in ranks}
        locked = self._locked(ranks - reports.keys())
        hang = explain(list(reports.values()), self._who.num_ranks, self._folder, nodes=nodes, locked=locked)
        _say(hang.text)
        failed = ""
        try:
            self._on_hang(hang)
        except Exception as error:
            failed = repr(error)
        # Last: the other ranks end when they see it, and a launcher ends all when one ends.
        told = {**asdict(hang), "folder": str(hang.folder), "on_hang_failed": failed}
        with contextlib.suppress(OSError):
            write_json(self._folder / "explanation.json", told)

    def _all_told(self) -> bool:
        reported = self._ranks_with("json")
        return len(reported | self._locked(self._ranks_with("stacks.txt") - reported).keys()) >= self._who.num_ranks

    def _ranks_with(self, ending: str) -> set[int]:
        matches = (re.fullmatch(rf"rank-(\d+)\.{ending}", name) for name in os.listdir(self._folder))
        return {int(match[1]) for match in matches if match}

    def _reports(self) -> dict[int, Report]:
        paths = {rank: self._folder / f"rank-{rank}.json" for rank in self._ranks_with("json")}
        return {rank: Report.from_dict(json.loads(path.read_text("utf-8"))) for rank, path in paths.items()}

    def _stack_lines(self, rank: int) -> list[str]:
        return self._stacks_path(rank).read_text(encoding="utf-8", errors="replace").splitlines()

    def _locked(self, ranks: set[int]) -> dict[int, Frame | None]:
        """Those of ``ranks`` that the timer in C has ended, and the line of their main thread."""
        lines = {rank: self._stack_lines(rank) for rank in ranks}
        return {rank: line_of_main_thread(found) for rank, found in lines.items() if len(found) > 1}

    def _report(self) -> Report:
        mark = self._mark
        return Report(
            rank=self._who.rank,
            node=self._who.node_name,
            phase=mark.phase,
            step=mark.step,
            micro_step=mark.micro_step,
            seconds=time.monotonic() - mark.made,
            marks=mark.number,
            module=self._module,
            modules=self._modules,
            collectives=collectives_begun(),
            samples=tuple(key if isinstance(key, str) else int(key) for key in mark.samples[:_MOST_SAMPLES_KEPT]),
            stacks=tuple(current_stacks(without=_NAME)),
        )


def _say(text: str) -> None:
    print(f"ERROR {text}", file=sys.stderr, flush=True)
