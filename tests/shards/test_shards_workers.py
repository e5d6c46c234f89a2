"""A dead worker ends in one line; what another command has finished is not done again."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from phi3v_dist.errors import ShardError
from phi3v_dist.shards.placing import Part
from phi3v_dist.shards.workers import worker_pool


def leave_mark(folder: Path, piece: int) -> None:
    (folder / str(piece)).touch()
    with open(folder.with_suffix(".order"), "a") as handle:
        handle.write(f"{piece}\n")


def test_a_part_begins_with_its_pieces_and_does_all_that_nobody_has(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    for piece in (3, 4):
        (folder / str(piece)).touch()

    def unfinished() -> list[int]:
        return [piece for piece in range(12) if not (folder / str(piece)).exists()]

    with worker_pool(1, Part(2, 3)) as workers:
        workers.finish(partial(leave_mark, folder), 12, unfinished, "marking")
    done = [int(line) for line in folder.with_suffix(".order").read_text().split()]
    assert done[:3] == [1, 7, 10]
    assert sorted(done) == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]


def end_at_once(piece: int) -> None:
    os._exit(1)


def test_a_worker_that_dies_is_an_error_not_a_hang():
    with pytest.raises(ShardError, match=r"killed.*fewer shards\.workers"), worker_pool(1) as workers:
        workers.finish(end_at_once, 2, lambda: [0, 1], "ending")


def test_processes_end_with_a_parent_that_is_killed():
    command = (
        "import os, time\n"
        "from phi3v_dist.shards.workers import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(1) as workers:\n"
        "        print(workers._pool.submit(os.getpid).result(), flush=True)\n"
        "        time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.wait(30)  # raises where it is still there
