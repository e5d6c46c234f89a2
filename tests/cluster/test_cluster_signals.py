"""Signals as Slurm sends them, to real processes."""

import signal
import subprocess
import sys
import time

import pytest

from phi3v_dist.cluster.signals import SAME_REQUEST_SECONDS, StopSignals, held_back

PROGRAM = """
import ctypes, os, sys, time
from phi3v_dist.cluster.signals import StopSignals
with StopSignals(lambda name: os._exit(75)) as signals:
    print("ready", flush=True)
    if sys.argv[1] == "stuck":
        ctypes.CDLL(None).pause()  # outside Python, as in a collective, and again after each signal
        while True:
            ctypes.CDLL(None).sleep(60)
    while not signals.asked:
        time.sleep(0.01)
    print(signals.asked, flush=True)
    time.sleep(float(sys.argv[1]))
print("own handler again", flush=True)
os.kill(os.getpid(), 15)
"""


def start(word: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, word], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_first_signal_is_a_request_and_later_the_signal_kills_again(number):
    process = start("0")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert output == f"{number.name}\nown handler again\n"
    assert process.returncode == -signal.SIGTERM


def test_the_pair_that_slurm_sends_at_the_limit_is_one_request():
    process = start("1")
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert "own handler again" in process.communicate(timeout=60)[0]


def test_second_signal_ends_at_once_what_waits_outside_python():
    process = start("stuck")
    process.send_signal(signal.SIGUSR1)
    time.sleep(SAME_REQUEST_SECONDS + 0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 75


def test_a_process_started_while_held_back_outlives_the_signals():
    with StopSignals(lambda name: None), held_back():
        child = subprocess.Popen(["sleep", "2"])
    for number in (signal.SIGUSR1, signal.SIGTERM):
        child.send_signal(number)
    assert child.wait(timeout=30) == 0
