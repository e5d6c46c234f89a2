"""A rehearsal of the worst case: every rank is killed in the middle of a run, and the same command goes on.

Enters: the command that trains, and its run folder. Leaves: a finished run, and the proof that the steps done again
had the same losses to the last bit. Nothing in the training code knows that it is rehearsed.
"""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from phi3v_dist.console import say
from phi3v_dist.errors import RunError
from phi3v_dist.files import write_json
from phi3v_dist.tracking.metrics import METRICS_FILE, REPLAYED_FILE, compare_replayed, read_metrics
from phi3v_dist.training.attempts import is_finished

_DEMO_FILE = "demo.json"
_LOOK_EVERY_SECONDS = 0.05


def hold_to_settings(folder: Path, settings: Mapping[str, int]) -> None:
    """Write down in ``folder`` what its rehearsal is made with, so that old results never pass for those of other ones.

    Raises ``RunError`` where it was made with others. A folder that doesn't tell is new.
    """
    file = folder / _DEMO_FILE
    if not file.exists():
        write_json(file, settings)
    before = file.read_text(encoding="utf-8")
    try:
        same = json.loads(before) == settings
    except ValueError:
        same = False
    if not same:
        wanted = ", ".join(f"{name} {value}" for name, value in settings.items())
        mend = f"Give another folder, or delete {folder} to make it anew."
        raise RunError(f"made with other settings than {wanted}", where=str(file), value=before, mend=mend)


def train_through_a_kill(command: Sequence[str], run_folder: Path, kill_at: int) -> None:
    """Run ``command``, kill -9 its ranks once step ``kill_at`` is done, run it again to the end.

    Raises ``RunError`` when the command fails by itself, or a step done again has another loss.
    """
    if not is_finished(run_folder) and not (run_folder / REPLAYED_FILE).exists():
        say(f"all ranks will be killed after step {kill_at}, on purpose")
        _kill_at(command, run_folder, kill_at)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise RunError("training ended with an error, its own line stands above", where=" ".join(command), value=code,
                       mend="Mend what it names and start again: it goes on at its last checkpoint.")  # fmt: skip
    again, differing = compare_replayed(run_folder)
    if differing or not again:
        raise RunError(
            f"{again} steps were done again, these with another loss",
            where=str(run_folder),
            value=differing,
            mend="A resume must be exact: please report this with the run folder.",
        )
    say(f"{again} steps were done again after the kill, each with the same loss to the last bit")


def _kill_at(command: Sequence[str], run_folder: Path, kill_at: int) -> None:
    with subprocess.Popen(command) as launcher:
        while _last_step(run_folder) < kill_at:
            if launcher.poll() is not None:
                return  # it ended by itself, the second start will tell how
            time.sleep(_LOOK_EVERY_SECONDS)
        ranks = _ranks_below(launcher.pid)
        say(f"kill -9 {' '.join(str(rank.pid) for rank in ranks)}, and the same command again")
        for rank in ranks:
            with suppress(psutil.NoSuchProcess):
                rank.kill()


def _last_step(run_folder: Path) -> int:
    lines = read_metrics(run_folder / METRICS_FILE)
    return lines[-1]["step"] if lines else 0


def _ranks_below(launcher: int) -> list[psutil.Process]:
    """The processes that train: those of launch/train.py that no other such process started (its loaders)."""
    parents = {}
    for process in psutil.Process(launcher).children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if _trains(process.cmdline()):
                parents[process] = process.ppid()
    pids = {process.pid for process in parents}
    return [process for process, parent in parents.items() if parent not in pids]


def _trains(words: Sequence[str]) -> bool:
    # launcher processes hold the script's name too, behind a -m of their own
    return any(word.endswith("launch/train.py") for word in words) and "-m" not in words
