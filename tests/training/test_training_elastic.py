"""A run in bf16 that goes on with another number of processes: the same samples in each step, the same losses.

Nine steps on 2 processes; then from its checkpoint of step 6 on with 1, with 3 and with 4, as after a loss of all that
came later. What the weights do is ``test_training_world_size.py``'s; here it is the data.
"""

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)
STOP, STEPS = 6, 9
RANKS = (1, 3, 4)
OPTIONS = (
    "training.precision=bf16",
    "training.warmup_share=0",  # the rate doesn't depend on how long a run is meant to be
    "training.min_learning_rate_share=1",
    "packing.packs_per_step=6",  # with 4 ranks the last row has gaps
    "packing.balance_steps=2",  # a block of steps ends where the run stops, and one begins within
    "packing.group_packs=2",
    "packing.pack_tokens=512",
    "packing.workers=0",
    "checkpoints.every_steps=3",
    "evaluation.every_steps=0",
    "tracking.wandb=disabled",
)


def train(warm, small_demo, folder: Path, ranks: int) -> None:
    recipe = small_demo.recipe(folder, *OPTIONS, f"training.steps={STEPS}")
    ended = warm.run("tests/training/telling_train.py", *recipe, ranks=ranks)
    assert [rank.returncode for rank in ended] == [0] * ranks, "".join(rank.output for rank in ended)


@pytest.fixture(scope="module")
def undisturbed(warm, small_demo, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "train"
    train(warm, small_demo, folder, 2)
    return folder


@pytest.fixture(scope="module", params=RANKS)
def gone_on(request, warm, small_demo, undisturbed, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(f"on-{request.param}") / "train"
    later = shutil.ignore_patterns("FINISHED", f"step-{STEPS}", "samples-*.txt")
    shutil.copytree(undisturbed, folder, symlinks=True, ignore=later)
    train(warm, small_demo, folder, request.param)
    return folder


def samples_of_steps(folder: Path) -> list[tuple[int, list[str]]]:
    steps: dict[int, list[str]] = {}
    for file in folder.glob("samples-*.txt"):
        for line in file.read_text().splitlines():
            step, *keys = line.split()
            steps.setdefault(int(step), []).extend(keys)
    return [(step, sorted(keys)) for step, keys in sorted(steps.items())]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line["loss"] for line in lines]


def test_each_step_has_the_samples_that_it_has_without_a_stop(gone_on, undisturbed):
    expected = samples_of_steps(undisturbed)
    assert [step for step, _ in expected] == list(range(1, STEPS + 1))
    assert all(len(keys) > 6 for _, keys in expected)
    assert len({key for _, keys in expected for key in keys}) > 100
    assert samples_of_steps(gone_on) == expected[STOP:]


def test_losses_are_those_of_the_undisturbed_run_to_the_rounding_of_bf16(gone_on, undisturbed):
    assert losses(gone_on) == pytest.approx(losses(undisturbed), rel=2**-9)
    redone = (gone_on / "metrics.replayed.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in redone] == list(range(STOP + 1, STEPS + 1))


def test_the_run_remembers_how_many_packs_each_window_gave(undisturbed):
    told = json.loads((undisturbed / "windows.json").read_text())
    assert sum(sum(packs) for packs in told["packs"].values()) >= STEPS * 6
