"""A run in bf16 that goes on with another number of processes: the same samples in each step, the same losses.

Six steps on 2 processes, then from that checkpoint on with 1, with 3 and with 4, each beside a run on 2 that was never
stopped. What the weights do is ``test_training_world_size.py``'s; here it is the data.
"""

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)
STOP, STEPS = 6, 9
RANKS = (1, 3, 4)
OPTIONS = (
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


def train(warm, small_demo, folder: Path, ranks: int, steps: int) -> None:
    ended = warm.run(
        "tests/training/telling_train.py",
        *small_demo.recipe(folder, *OPTIONS, f"training.steps={steps}"),
        ranks=ranks,
    )
    assert [rank.returncode for rank in ended] == [0] * ranks, "".join(rank.output for rank in ended)


@pytest.fixture(scope="module")
def undisturbed(warm, small_demo, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "train"
    train(warm, small_demo, folder, 2, STEPS)
    return folder


@pytest.fixture(scope="module")
def stopped(warm, small_demo, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "train"
    train(warm, small_demo, folder, 2, STOP)
    (folder / "FINISHED").unlink()
    return folder


@pytest.fixture(scope="module", params=RANKS)
def gone_on(request, warm, small_demo, stopped, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(f"on-{request.param}") / "train"
    shutil.copytree(stopped, folder, symlinks=True)
    train(warm, small_demo, folder, request.param, STEPS)
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
    assert samples_of_steps(gone_on) == expected


def test_losses_are_those_of_the_undisturbed_run_to_the_rounding_of_bf16(gone_on, undisturbed):
    found, expected = losses(gone_on), losses(undisturbed)
    assert found[:STOP] == expected[:STOP]
    assert found == pytest.approx(expected, rel=2**-9)


def test_the_run_remembers_how_many_packs_each_window_gave(stopped):
    told = json.loads((stopped / "windows.json").read_text())
    assert sum(sum(packs) for packs in told["packs"].values()) >= STOP * 6
