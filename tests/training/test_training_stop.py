"""Ranks as real processes over gloo: they stop at the same micro-step, whichever of them was asked."""

import json
import subprocess
import sys

import pytest

from phi3v_dist.cluster.process_group import free_port

PROGRAM = """
import json, os, signal, sys, time
from datetime import timedelta
import torch.distributed as dist
from phi3v_dist.cluster.signals import StopSignals
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.training.stop import Stop

rank, ranks, port, asked_rank, number, job_end = map(int, sys.argv[1:])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
who = ClusterInfo(rank, ranks, 0, 1, "srun", "", 0, job_end=job_end or None)
clock = iter(range(1000))  # one micro-step takes one second
with StopSignals(lambda name: None) as signals:
    stop = Stop(signals, who, save_seconds=10, spare_seconds=5, group_timeout=timedelta(minutes=1),
                clock=lambda: next(clock))
    stop.learn(step_seconds=2, save_seconds=4)
    micro_step = 0
    while micro_step < 60 and not stop.agreed():
        if micro_step == 5 and rank == asked_rank:
            os.kill(os.getpid(), number)
            while not signals.asked:
                time.sleep(0.01)
        micro_step += 1
    stop.close()
print(json.dumps([micro_step, stop.reason, stop.needed_seconds]))
dist.barrier()
dist.destroy_process_group()
"""


def stopped(*, ranks: int = 3, asked_rank: int = -1, number: int = 0, job_end: int = 0) -> list[list]:
    port = free_port()
    words = [ranks, port, asked_rank, number, job_end]
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), *map(str, words)], stdout=subprocess.PIPE, text=True
        )
        for rank in range(ranks)
    ]
    return [json.loads(task.communicate(timeout=120)[0].splitlines()[-1]) for task in tasks]


@pytest.mark.parametrize(("number", "name"), [(10, "SIGUSR1"), (15, "SIGTERM")])
def test_a_signal_to_one_rank_stops_all_at_the_same_micro_step(number, name):
    # asked in micro-step 5: the question of 6 carries it, the answer comes with 7
    assert stopped(asked_rank=1, number=number) == [[7, name, 22.0]] * 3


def test_the_time_limit_stops_all_when_a_step_and_a_long_save_would_no_longer_fit():
    # 2 s for a step, 1.5 × 10 s for the longest save, 5 s to spare: from second 29 on it's too late before second 50
    assert stopped(ranks=2, job_end=50) == [[30, "the job's time limit", 22.0]] * 2


def test_nobody_asked_nobody_stops():
    assert stopped(ranks=2) == [[60, "", 22.0]] * 2
