"""Stacks of real threads, the real output of faulthandler, the real count of collectives."""

import faulthandler
import json
import subprocess
import sys
import threading
import time

from phi3v_dist.cluster.hang_report import Frame, Report, Stack, collectives_begun, current_stacks, line_of_main_thread

COUNTS = """
import torch.distributed as dist
from phi3v_dist.cluster.hang_report import collectives_begun
from phi3v_dist.cluster.process_group import process_group
from phi3v_dist.cluster.who import ALONE
with process_group(ALONE, "gloo", 1.0):
    before = collectives_begun()
    dist.barrier()
    counts = [collectives_begun() - before]
    dist.all_gather_object([None], "a")  # its length, then its bytes
    counts.append(collectives_begun() - before)
print(counts)
"""


def test_a_report_is_the_same_after_json():
    stack = Stack("MainThread", (Frame("a.py", 3, "f", "g()"),), native=True)
    full = Report(3, "n1", "forward", 5, 2, 1.5, 1, "lm_head", 7, 812, ("a", 5), (stack,))
    assert Report.from_dict(json.loads(json.dumps(full.as_dict()))) == full


def test_stacks_of_all_threads_are_read_innermost_last_with_the_main_threads_first():
    begun, end = threading.Event(), threading.Event()

    def beside():
        begun.set()
        end.wait()

    threads = [threading.Thread(target=beside, name=name) for name in ("reader", "watchdog")]
    for thread in threads:
        thread.start()
    begun.wait()
    found = list(current_stacks(without="watchdog"))
    end.set()
    assert found[0].thread == "MainThread"
    assert found[0].frames[-1].function == "current_stacks"
    assert found[0].frames[-2].text == 'found = list(current_stacks(without="watchdog"))'
    reader = next(stack for stack in found if stack.thread == "reader")
    assert "end.wait()" in [frame.text for frame in reader.frames]
    assert not reader.native
    assert "watchdog" not in [stack.thread for stack in found]


def test_the_line_of_the_main_thread_is_found_in_what_faulthandler_writes(tmp_path):
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    with open(tmp_path / "stacks.txt", "w+") as file:
        file.write("node n1\n")
        file.flush()
        faulthandler.dump_traceback_later(0.2, file=file)
        time.sleep(1.0)
        faulthandler.cancel_dump_traceback_later()
        end.set()
    lines = (tmp_path / "stacks.txt").read_text().splitlines()
    assert len([line for line in lines if "most recent call first" in line]) >= 2
    found = line_of_main_thread(lines)
    assert (found.file, found.function) == (__file__, sys._getframe().f_code.co_name)
    assert line_of_main_thread(lines[:1]) is None


def test_collectives_are_counted_alike_for_every_kind():
    assert collectives_begun() == 0
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "[1, 3]\n", done.stderr
