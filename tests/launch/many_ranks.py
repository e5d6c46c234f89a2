"""Starts launch/preflight.py as the ranks of srun, once per line of standard input, in forks of one process.

Enters: one JSON object per line: ``ranks``, each with its arguments, environment and working folder. Leaves: one JSON
list per line: exit code, both outputs and seconds of each rank. As in many_starts.py the imports, which would cost
more than the checks on a small machine, are done once.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from many_starts import be_the_command

import phi3v_dist.training.preflight  # noqa: F401  what each start would import

SCRIPT = str(Path("launch/preflight.py").absolute())


def open_file() -> IO[str]:
    return tempfile.TemporaryFile("w+")


def start(ranks: list[dict]) -> list[dict]:
    started = time.monotonic()
    outputs = [(open_file(), open_file()) for _ in ranks]
    children = {}
    for number, rank in enumerate(ranks):
        if (child := os.fork()) == 0:
            for target, file in enumerate(outputs[number], 1):
                os.dup2(file.fileno(), target)
            os.environ.update(rank["environment"])
            os.chdir(rank["folder"])
            code = be_the_command(rank["arguments"], SCRIPT)
            sys.stdout.flush()
            os._exit(code)
        children[child] = number
    told: list[dict] = [{} for _ in ranks]
    while children:
        child, status = os.wait()
        number = children.pop(child)
        told[number] = {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}
    for one, (out, err) in zip(told, outputs, strict=True):
        for file in (out, err):
            file.seek(0)
        one |= {"out": out.read(), "err": err.read()}
    return told


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(start(json.loads(line))), flush=True)
