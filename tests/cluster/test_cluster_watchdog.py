"""Real ranks over gloo that go wrong: each is named in one line, and all living ranks end with 70 in a set time."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_hang_worker import GUILTY_RANK, WRONG_LAYER, WRONG_STEP
from engine_hang_worker import LIMIT_SECONDS as ENGINE_LIMIT_SECONDS
from watchdog_worker import LIMIT_SECONDS

from phi3v_dist.cluster.process_group import free_port

HERE = Path(__file__).parent
MOST_SECONDS_TO_EXIT = 15.0
STARTING_SECONDS = 240.0  # several tests at once on 2 cores: imports alone take a minute
HUNG = 70


@dataclass
class Ended:
    """How the ranks ended; ``seconds``: from the first rank's limit to the last one's exit (the guilty left out)."""

    codes: list[int]
    errors: list[str]
    seconds: float
    folder: Path

    @property
    def lines(self) -> list[str]:
        """All lines of all ranks on standard error."""
        return [line for error in self.errors for line in error.splitlines()]

    def told(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


def start_ranks(worker: str, *arguments: object, num_ranks: int) -> list[subprocess.Popen]:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    sizes = ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE")
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / worker), *map(str, arguments)],
            env=os.environ
            | meeting
            | dict.fromkeys(sizes, str(num_ranks))
            | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURMD_NODENAME": f"n{rank}"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(num_ranks)
    ]


def wait_for_ranks(ranks: list[subprocess.Popen], folder: Path, limit_seconds: float, guilty: int) -> Ended:
    """Wait for all but the guilty rank, give that one a moment, then end it by its own id if it still is."""
    try:
        for rank, process in enumerate(ranks):
            if rank != guilty:
                process.wait(timeout=STARTING_SECONDS)
        seconds = time.time() - min(
            path.stat().st_mtime - json.loads(path.read_text())["seconds"] + limit_seconds
            for path in folder.glob("rank-*.json")
        )
        deadline = time.monotonic() + 5.0
        while ranks[guilty].poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        codes = [process.poll() for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    errors = [process.communicate()[1] for process in ranks]
    return Ended(codes, errors, seconds, folder)


def run_case(folder: Path, case: str, guilty: int, num_ranks: int) -> Ended:
    ranks = start_ranks("watchdog_worker.py", folder, case, guilty, num_ranks=num_ranks)
    return wait_for_ranks(ranks, folder, LIMIT_SECONDS, guilty)


def assert_told_in_time(ended: Ended, text: str) -> None:
    """One line on standard error in all, equal to the explanation's text, within the set time."""
    assert ended.lines == [f"ERROR {ended.told('explanation.json')['text']}"]
    assert text in ended.lines[0], ended.lines[0]
    assert 0.0 <= ended.seconds <= MOST_SECONDS_TO_EXIT
    assert ended.lines[0].endswith(f"All stacks: {ended.folder}")


OTHERS_WAIT = r"wait in all_reduce \(collective \d+\) at sum_over_ranks phi3v_dist/cluster/process_group\.py:"


def test_a_rank_that_skips_a_collective_is_named(tmp_path: Path) -> None:
    ended = run_case(tmp_path, "skips", guilty=1, num_ranks=3)
    assert ended.codes == [HUNG] * 3, ended.errors
    assert_told_in_time(ended, "rank 1 (node n1) left the common order: it waits in barrier (collective ")
    assert "(step 2, micro-step 1, forward) with samples sample-1-2, 7; ranks 0, 2 wait" in ended.lines[0]
    assert re.search(f"; ranks 0, 2 {OTHERS_WAIT}", ended.lines[0])
    assert (tmp_path / "on_hang.txt").read_text() == "elsewhere (1,) ('n1',)"


def test_a_rank_that_sleeps_is_named_and_a_failing_hook_stops_no_exit(tmp_path: Path) -> None:
    ended = run_case(tmp_path, "asleep", guilty=1, num_ranks=2)
    assert ended.codes == [HUNG] * 2, ended.errors
    assert_told_in_time(ended, "rank 1 (node n1) held the others up: it is in asleep ")
    doing = "[time.sleep(FOR_EVER_SECONDS)] (step 2, micro-step 1, forward) with samples sample-1-2, 7"
    assert f"{doing}; rank 0 waits in a handle's wait (collective " in ended.lines[0]
    assert ended.told("explanation.json")["on_hang_failed"] == "RuntimeError('the hook fails')"
    stacks = [stack["thread"] for stack in ended.told("rank-1.json")["stacks"]]
    assert stacks == ["MainThread", "a thread beside"]


def test_a_frozen_rank_is_named_by_the_lowest_that_lives_and_leaves_the_word_to_it(tmp_path: Path) -> None:
    ranks = start_ranks("watchdog_worker.py", tmp_path, "frozen", 0, num_ranks=3)
    try:
        for process in ranks[1:]:
            process.wait(timeout=STARTING_SECONDS)
        assert ranks[0].poll() is None
        ranks[0].send_signal(signal.SIGCONT)  # its peers are gone by now
        ended = wait_for_ranks(ranks, tmp_path, LIMIT_SECONDS, 0)
    finally:
        for process in ranks:
            process.kill()
    assert ended.codes[1:] == [HUNG] * 2, ended.errors
    assert ended.codes[0] in (HUNG, 1)  # 1: the timer in C was first
    assert_told_in_time(ended, "rank 0 (node n0) gave no sign (frozen, dead or cut off); ranks 1, 2 wait")
    assert re.search(f"; ranks 1, 2 {OTHERS_WAIT}", ended.lines[0])
    assert (tmp_path / "on_hang.txt").read_text() == "silent (0,) ('n0',)"


def test_a_rank_that_holds_pythons_lock_is_named_with_its_line_and_ended_in_c(tmp_path: Path) -> None:
    ended = run_case(tmp_path, "holds_pythons_lock", guilty=1, num_ranks=2)
    assert ended.codes == [HUNG, 1], ended.errors
    assert_told_in_time(ended, "rank 1 (node n1) holds Python's lock, its main thread is in holds_pythons_lock ")
    assert "ctypes" not in (tmp_path / "rank-1.stacks.txt").read_text()
    assert (tmp_path / "on_hang.txt").read_text() == "busy (1,) ('n1',)"


def test_marks_in_time_and_patience_keep_a_rank_alive_and_nothing_is_left(tmp_path: Path) -> None:
    ranks = start_ranks("watchdog_worker.py", tmp_path / "hang", "well", 0, num_ranks=2)
    told = [process.communicate(timeout=STARTING_SECONDS)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], told
    assert told == ["", ""]
    assert not (tmp_path / "hang").exists()


@pytest.mark.slurm
def test_under_zero_3_the_decoder_layer_in_which_a_rank_left_the_order_is_named(small_demo, tmp_path: Path) -> None:
    data = (small_demo.folder / "base", small_demo.folder / "shards")
    ranks = start_ranks("engine_hang_worker.py", *data, tmp_path, num_ranks=3)
    ended = wait_for_ranks(ranks, tmp_path / "hang", ENGINE_LIMIT_SECONDS, GUILTY_RANK)
    assert ended.codes == [HUNG] * 3, ended.errors
    assert_told_in_time(ended, f"rank {GUILTY_RANK} (node n{GUILTY_RANK}) left the common order: it waits in barrier (")
    layer = f"(step {WRONG_STEP}, micro-step 0, forward and backward, model.layers.{WRONG_LAYER})"
    assert layer in ended.lines[0].split("; ranks 0, 2 wait in ")[0]
    assert "deepspeed/runtime/" in ended.lines[0].split("; ranks 0, 2 wait in ")[1]
    explanation = ended.told("explanation.json")
    assert (explanation["kind"], explanation["ranks"]) == ("elsewhere", [GUILTY_RANK])


def test_a_run_of_one_explains_itself(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from phi3v_dist.cluster.watchdog import Watchdog; from phi3v_dist.cluster.who import ALONE\n"
        "Watchdog(Path(sys.argv[1]), ALONE, 1.0).start(); time.sleep(30)\n"
    )
    ended = run_alone(program, tmp_path)
    assert ended.returncode == HUNG
    assert ended.stderr.count("\n") == 1
    assert "it is in <module> <string>:3 (step 0, micro-step 0, start)" in ended.stderr


def test_a_folder_that_vanished_still_ends_the_rank_with_a_line(tmp_path: Path) -> None:
    program = (
        "import shutil, sys, time; from pathlib import Path\n"
        "from phi3v_dist.cluster.watchdog import Watchdog; from phi3v_dist.cluster.who import ALONE\n"
        "Watchdog(Path(sys.argv[1]), ALONE, 1.0).start()\n"
        "shutil.rmtree(sys.argv[1]); Path(sys.argv[1]).write_text('in the way'); time.sleep(30)\n"
    )
    ended = run_alone(program, tmp_path / "hang")
    assert ended.returncode == HUNG
    assert ended.stderr.count("\n") == 1
    assert "ERROR rank 0: no progress for 1 s in start of step 0, and " in ended.stderr


def run_alone(program: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=STARTING_SECONDS, check=False)
