"""A run that goes on with 3, then 2, then 1, then 3 processes, against one that was never stopped.

In float32, where the number of ranks changes nothing but the order of sums; with a frozen vision tower, two groups of
parameters, and several pieces per group, each of which DeepSpeed's way over its universal format treats in its own way.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launching import run_like_srun, run_tool

from phi3v_dist.checkpoints.choose import ENGINE, complete_checkpoints
from phi3v_dist.model.folder import iterate_weights

STEPS_OF = {3: 3, 2: 6, 1: 9}  # ranks → step at which they stop; then 3 again
STEPS = 12
OPTIONS = (
    "model.train_vision=false",
    "training.precision=fp32",
    "training.warmup_share=0",  # the rate doesn't depend on how long a run is meant to be
    "training.min_learning_rate_share=1",
    "training.weight_decay=0.5",  # a group that took the other's would show
    "packing.packs_per_step=3",  # a rank of two has a blank pack
    "packing.workers=0",
    "checkpoints.every_steps=3",
    "checkpoints.keep_last=9",
    "evaluation.every_steps=0",
    "tracking.wandb=disabled",
)


def trained(small_demo, settings: Path, folder: Path, ranks: int, steps: int) -> list[str]:
    recipe = small_demo.recipe(folder, *OPTIONS, f"training.deepspeed_config={settings}", f"training.steps={steps}")
    tasks = run_like_srun("launch/train.py", *recipe, ranks=ranks)
    assert [task.returncode for task in tasks] == [0] * ranks, "".join(task.stdout for task in tasks)
    (folder / "FINISHED").unlink()
    return [task.stdout for task in tasks]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Path:
    """Small pieces: DeepSpeed cuts a group of the demo model's parameters into several, as it does the real one's."""
    told = json.loads(Path("ds_configs/zero3.json").read_text())
    told["zero_optimization"] |= {"sub_group_size": 60_000, "stage3_param_persistence_threshold": 500}
    file = tmp_path_factory.mktemp("settings") / "zero3.json"
    file.write_text(json.dumps(told))
    return file


@pytest.fixture(scope="module")
def changing(small_demo, settings, tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("changing") / "train"
    ways = [*STEPS_OF.items(), (3, STEPS)]
    return SimpleNamespace(folder=folder, output=[trained(small_demo, settings, folder, *way)[0] for way in ways])


@pytest.fixture(scope="module")
def undisturbed(small_demo, settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "train"
    trained(small_demo, settings, folder, 1, STEPS)
    return folder


def curve(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [(line["loss"], line["gradient_norm"]) for line in lines]


def test_each_number_of_ranks_wrote_its_checkpoints(changing):
    written = {checkpoint.step: checkpoint.num_ranks for checkpoint in complete_checkpoints(changing.folder)}
    assert written == {3: 3, 6: 2, 9: 1, 12: 3}


def test_pieces_are_several_and_differ_with_the_number_of_ranks(changing):
    """What makes this test one: with one piece per group most of what can go wrong would not."""
    counts = {}
    for checkpoint in complete_checkpoints(changing.folder):
        file = next((checkpoint.folder / ENGINE).glob("*zero_pp_rank_0_*_optim_states.pt"))
        state = torch.load(file, weights_only=False)["optimizer_state_dict"]
        counts[checkpoint.step] = len(state["fp32_flat_groups"])
        groups = state["optimizer_state_dict"]["param_groups"]
        assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
        assert {float(one["step"]) for one in state["optimizer_state_dict"]["state"].values()} == {checkpoint.step}
    assert counts[9] > counts[6] > 2


def test_losses_are_those_of_a_run_that_was_never_stopped(changing, undisturbed):
    found, expected = curve(changing.folder), curve(undisturbed)
    assert found == [pytest.approx(pair, rel=2e-5) for pair in expected]


def test_weights_are_those_of_a_run_that_was_never_stopped(changing, undisturbed, small_demo, tmp_path):
    """Through the export, which must know a checkpoint that was written after such a resume."""
    for name, folder in {"changing": changing.folder, "undisturbed": undisturbed}.items():
        done = run_tool("tools/consolidate.py", folder, tmp_path / name)
        assert done.returncode == 0, done.stderr
    base, found, expected = (
        dict(iterate_weights(folder))
        for folder in (small_demo.folder / "base", tmp_path / "changing", tmp_path / "undisturbed")
    )
    frozen = [name for name in base if "vision_embed_tokens" in name]
    assert len(frozen) > 40 and all(torch.equal(found[name], base[name]) for name in frozen)
    for name in base.keys() - set(frozen):
        moved = (expected[name].float() - base[name].float()).abs().max()
        assert (found[name].float() - expected[name].float()).abs().max() <= 0.02 * moved, name


def test_copies_for_another_number_of_ranks_are_gone(changing):
    assert {path.name for path in (changing.folder / "checkpoints").iterdir()} == {f"step-{n}" for n in (3, 6, 9, 12)}
