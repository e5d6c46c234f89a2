"""Runs launch/train.py to its end many times, each time on two ranks forked from a process that knows torch already.

Arguments: number of runs, folder for them, then those of the command. Leaves: a JSON list of the exit codes of each
run. A start of its own would spend most of its time on imports; the end, which is looked at here, is the real one.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback

import deepspeed  # noqa: F401  what each start would import

import phi3v_dist.training.loop  # noqa: F401
from phi3v_dist.cluster.process_group import free_port

RANKS = 2


def be_a_rank(rank: int, port: int, arguments: list[str]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    sys.argv = ["launch/train.py", *arguments]
    try:
        runpy.run_path("launch/train.py", run_name="__main__")
    except BaseException:
        traceback.print_exc()
    os._exit(99)  # the command ends the process itself


def run(arguments: list[str]) -> list[int]:
    port, ranks = free_port(), []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            with tempfile.TemporaryFile() as out:
                os.dup2(out.fileno(), 1)
            be_a_rank(rank, port, arguments)
        ranks.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in ranks]


if __name__ == "__main__":
    runs, folder, *words = sys.argv[1:]
    print(json.dumps([run([*words, f"run_folder={folder}/{number}"]) for number in range(int(runs))]))
