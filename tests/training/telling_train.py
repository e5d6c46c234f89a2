"""launch/train.py that tells which samples each rank was given: lines "step key key …" in RUN/samples-RANK.txt."""

import os
import runpy
import sys
from pathlib import Path

from phi3v_dist.training import loop

real_take_step = loop.take_step
folder = next(word.partition("=")[2] for word in sys.argv if word.startswith("run_folder="))


def take_step(engine, plan, batches, *, goes_on, **told):
    keys = []

    def asked(micro_step, batch):
        keys.extend(str(number) for number in batch.samples.tolist() if number >= 0)
        return goes_on(micro_step, batch)

    sums = real_take_step(engine, plan, batches, goes_on=asked, **told)
    with open(Path(folder, f"samples-{os.environ['SLURM_PROCID']}.txt"), "a") as file:
        file.write(" ".join([str(plan.step + 1), *keys]) + "\n")
    return sums


loop.take_step = take_step
runpy.run_path("launch/train.py", run_name="__main__")
