"""Starts launch/train.py once per line of standard input, each time in a fork of one process that knows torch already.

Enters: JSON lists of arguments. Leaves: one JSON object per start: exit code, both outputs. A start of its own would
spend four seconds on imports; a fork is the same ``__main__``, with its own outputs and its own end.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback

import phi3v_dist.training.loop  # noqa: F401  what each start would import

SCRIPT = "launch/train.py"


def be_the_command(arguments: list[str], script: str = SCRIPT) -> int:
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def start(arguments: list[str]) -> dict[str, object]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = be_the_command(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (out, err):
            file.seek(0)
        return {"code": code, "out": out.read(), "err": err.read()}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(start(json.loads(line))), flush=True)
