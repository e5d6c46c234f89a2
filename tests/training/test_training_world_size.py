"""Real runs and their checkpoints: one that goes on with 3, then 2, then 1, then 3 processes, against one that was
never stopped; its checkpoints damaged; one that can't write any.

In float32, where the number of ranks changes nothing but the order of sums; with a frozen vision tower, two groups of
parameters, and several pieces per group, each of which DeepSpeed's way over its universal format treats in its own way.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from launching import ranks_of_srun

from phi3v_dist.checkpoints.choose import ENGINE, MARKER, complete_checkpoints
from phi3v_dist.cluster.who import ALONE
from phi3v_dist.config.loading import load_config
from phi3v_dist.errors import CheckpointError
from phi3v_dist.model.folder import iterate_weights
from phi3v_dist.model.never_trained import EMBEDDING
from phi3v_dist.training.resume import find_checkpoint

pytestmark = pytest.mark.timeout(600)  # one fixture is four launches
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


def trained(warm, small_demo, settings: Path, folder: Path, ranks: int, steps: int) -> None:
    recipe = small_demo.recipe(folder, *OPTIONS, f"training.deepspeed_config={settings}", f"training.steps={steps}")
    ended = warm.run("launch/train.py", *recipe, ranks=ranks)
    assert [rank.returncode for rank in ended] == [0] * ranks, "".join(rank.output for rank in ended)
    (folder / "FINISHED").unlink()


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Path:
    """Small pieces: DeepSpeed cuts a group of the demo model's parameters into several, as it does the real one's."""
    told = json.loads(Path("ds_configs/zero3.json").read_text())
    told["zero_optimization"] |= {"sub_group_size": 60_000, "stage3_param_persistence_threshold": 500}
    file = tmp_path_factory.mktemp("settings") / "zero3.json"
    file.write_text(json.dumps(told))
    return file


@pytest.fixture(scope="module")
def changing(warm, small_demo, settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("changing") / "train"
    for way in [*STEPS_OF.items(), (3, STEPS)]:
        trained(warm, small_demo, settings, folder, *way)
    return folder


@pytest.fixture(scope="module")
def undisturbed(warm, small_demo, settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "train"
    trained(warm, small_demo, settings, folder, 1, STEPS)
    return folder


def curve(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [(line["loss"], line["gradient_norm"]) for line in lines]


def in_fp32(folder: Path) -> dict[str, torch.Tensor]:
    """DeepSpeed's own merge of the newest checkpoint."""
    newest = complete_checkpoints(folder)[-1].folder
    return {k: v.detach() for k, v in get_fp32_state_dict_from_zero_checkpoint(str(newest), tag=ENGINE).items()}


def test_each_number_of_ranks_wrote_its_checkpoints(changing):
    written = {checkpoint.step: checkpoint.num_ranks for checkpoint in complete_checkpoints(changing)}
    assert written == {3: 3, 6: 2, 9: 1, 12: 3}


def test_pieces_are_several_and_differ_with_the_number_of_ranks(changing):
    """What makes this test one: with one piece per group most of what can go wrong would not."""
    counts = {}
    for checkpoint in complete_checkpoints(changing):
        file = next((checkpoint.folder / ENGINE).glob("*zero_pp_rank_0_*_optim_states.pt"))
        state = torch.load(file, weights_only=False)["optimizer_state_dict"]
        counts[checkpoint.step] = len(state["fp32_flat_groups"])
        groups = state["optimizer_state_dict"]["param_groups"]
        assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
        assert {float(one["step"]) for one in state["optimizer_state_dict"]["state"].values()} == {checkpoint.step}
    assert counts[9] > counts[6] > 2


def test_losses_are_those_of_a_run_that_was_never_stopped(changing, undisturbed):
    found, expected = curve(changing), curve(undisturbed)
    assert found == [pytest.approx(pair, rel=5e-6) for pair in expected]


def test_weights_are_those_of_a_run_that_was_never_stopped(warm, changing, undisturbed, small_demo, tmp_path):
    """Through the export, which must know a checkpoint that was written after such a resume."""
    done = warm.run_alone("tools/consolidate.py", changing, tmp_path / "export")
    assert done.returncode == 0, done.stderr
    base, found = (dict(iterate_weights(folder)) for folder in (small_demo.folder / "base", tmp_path / "export"))
    frozen = [name for name in base if "vision_embed_tokens" in name]
    assert len(frozen) > 40 and all(torch.equal(found[name], base[name]) for name in frozen)
    master, master_expected = (in_fp32(folder) for folder in (changing, undisturbed))
    for name in base.keys() - set(frozen):
        assert torch.equal(found[name], master[name].bfloat16()) or name == EMBEDDING
        moved = (master_expected[name] - base[name].float()).abs().max()
        assert (master[name] - master_expected[name]).abs().max() <= 0.005 * moved, name


def test_copies_for_another_number_of_ranks_are_gone(changing):
    assert {path.name for path in (changing / "checkpoints").iterdir()} == {f"step-{n}" for n in (3, 6, 9, 12)}


@pytest.fixture
def damaged(changing, tmp_path) -> Iterator[Path]:
    """A copy of the run, to be damaged; with a process group of one, which takes no environment variables."""
    shutil.copytree(changing / "checkpoints", tmp_path / "train/checkpoints")
    shutil.copy(changing / "config.yaml", tmp_path / "train")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield tmp_path / "train"
    dist.destroy_process_group()


def flip_a_byte(file: Path) -> None:
    with open(file, "r+b") as handle:
        handle.seek(file.stat().st_size // 2)
        byte = handle.read(1)
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte[0] ^ 0xFF]))


OPTIMIZER_OF_RANK_1 = f"{ENGINE}/zero_pp_rank_1_mp_rank_00_optim_states.pt"
DAMAGES = {  # name → what is done to a file, which one, and how that is told
    "missing file": (Path.unlink, OPTIMIZER_OF_RANK_1, "is missing"),
    "truncated file": (lambda file: os.truncate(file, 1_000_000), OPTIMIZER_OF_RANK_1, "has 1000000 bytes"),
    "flipped byte": (flip_a_byte, OPTIMIZER_OF_RANK_1, "has another content than was written"),
    "missing marker": (Path.unlink, MARKER, "is missing"),
    "torn marker": (lambda file: os.truncate(file, 200), MARKER, "can't be read"),
}


def found_in(folder: Path):
    loaded = load_config(folder / "config.yaml", [f"run_folder={folder}"])
    return find_checkpoint(loaded, complete_checkpoints(folder)[0].trained_on, ALONE)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_put_aside_for_the_one_before_with_one_line(damaged, caplog, name):
    spoil, file, told = DAMAGES[name]
    spoil(damaged / "checkpoints/step-12" / file)
    with caplog.at_level(logging.WARNING, logger="phi3v_dist"):
        assert found_in(damaged).step == 9
    (line,) = [record.message for record in caplog.records]
    assert f"{damaged}/checkpoints/step-12 is no checkpoint: " in line and file in line and told in line
    assert line.endswith("put aside as step-12.damaged (delete it); falling back to step 9")
    caplog.clear()
    assert found_in(damaged).step == 9 and caplog.records == []
    assert (damaged / "checkpoints/step-12.damaged").is_dir()


def test_two_damaged_ones_in_a_row_are_two_lines(damaged, caplog):
    flip_a_byte(damaged / "checkpoints/step-12" / OPTIMIZER_OF_RANK_1)
    (damaged / "checkpoints/step-9" / MARKER).unlink()
    assert found_in(damaged).step == 6
    assert ["step-12 is" in caplog.messages[0], "step-9 is" in caplog.messages[1], len(caplog.messages)] == [1, 1, 2]


def test_whole_checkpoints_are_taken_without_a_word(damaged, caplog):
    assert found_in(damaged).step == STEPS and caplog.records == []


def test_without_a_whole_checkpoint_a_run_stops_and_puts_nothing_aside(damaged):
    trained_on = complete_checkpoints(damaged)[0].trained_on
    for folder in (damaged / "checkpoints").iterdir():
        flip_a_byte(folder / ENGINE / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    before = sorted((damaged / "checkpoints").iterdir())
    with pytest.raises(CheckpointError, match=r"none of the checkpoints is whole: step-12: .*; step-3: "):
        find_checkpoint(load_config(damaged / "config.yaml", [f"run_folder={damaged}"]), trained_on, ALONE)
    assert sorted((damaged / "checkpoints").iterdir()) == before


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_one_line_and_code_2(warm, small_demo, tmp_path):
    quiet = ("packing.workers=0", "evaluation.every_steps=0", "tracking.wandb=disabled", "training.steps=1")
    recipe = small_demo.recipe(tmp_path / "train", *quiet)
    with warm.started("launch/train.py", ranks_of_srun([recipe] * 2)) as started:
        for rank in started.pids:
            psutil.Process(rank).rlimit(psutil.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        ended = started.wait(240)
    told = "".join(rank.output for rank in ended)
    assert [rank.returncode for rank in ended] == [2, 2], told
    errors = [line for line in told.splitlines() if line.startswith("ERROR")]
    assert ["can't write a checkpoint: File too large" in line for line in errors] == [True], told
    assert "Traceback" not in told
    assert [path.name for path in (tmp_path / "train/checkpoints").iterdir()] == [".step-1.partial"]
