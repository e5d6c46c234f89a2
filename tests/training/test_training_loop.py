"""Whole short runs by every launcher: a killed run against an undisturbed one, and what a run's folder holds.

Few launches, each used for several facts: one costs about ten seconds. Those of torchrun, deepspeed and plain Python
are the users' own, those of srun are forks with its environment (warm_starter.py).
"""

import json
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml
from gradients_worker import nothing_persists
from launching import ranks_of_srun, run, run_tool, with_deepspeed, with_torchrun
from safetensors.torch import load_file
from wandb_file import history, read_records

from phi3v_dist.checkpoints.choose import complete_checkpoints, newest_checkpoint
from phi3v_dist.model import Phi3VForCausalLM
from phi3v_dist.model.folder import iterate_weights
from phi3v_dist.model.never_trained import EMBEDDING, frozen_names
from phi3v_dist.training.rehearsal import train_through_a_kill

STEPS = 12
OPTIONS = (f"training.steps={STEPS}", "evaluation.every_steps=6", "checkpoints.every_steps=5")
KILL_AT = 8  # three steps after a checkpoint, two before the next


def lines_of(run_folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (run_folder / name).read_text().splitlines()]


def losses(run_folder):
    return [(line["step"], line["loss"], line["gradient_norm"]) for line in lines_of(run_folder)]


def told_by(run_folder):
    """All that is told of each step but times."""
    times = {"time", "data_wait_share"}
    return [{k: v for k, v in line.items() if k not in times and "second" not in k} for line in lines_of(run_folder)]


@pytest.fixture(scope="module")
def undisturbed(warm, small_demo, tmp_path_factory):
    """Twelve steps on two processes, started as srun starts them."""
    folder = tmp_path_factory.mktemp("srun") / "train"
    ranks = warm.run("launch/train.py", *small_demo.recipe(folder, *OPTIONS))
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].output
    return SimpleNamespace(folder=folder, output=ranks[0].output, other_output=ranks[1].output)


@pytest.fixture(scope="module")
def killed(small_demo, tmp_path_factory):
    """The same run under torchrun, both ranks killed after step 8, started again."""
    folder = tmp_path_factory.mktemp("torchrun") / "train"
    train_through_a_kill(with_torchrun(*small_demo.recipe(folder, *OPTIONS)), folder, kill_at=KILL_AT)
    return folder


def test_killed_run_has_the_losses_of_an_undisturbed_one_bit_for_bit(undisturbed, killed):
    assert [step for step, *_ in losses(killed)] == list(range(1, STEPS + 1))
    assert losses(killed) == losses(undisturbed.folder)


def test_steps_done_again_after_the_kill_repeat_their_losses(killed):
    replayed = lines_of(killed, "metrics.replayed.jsonl")
    assert replayed[0]["step"] == 6 and len(replayed) >= 3
    final = {step: loss for step, loss, _ in losses(killed)}
    assert all(line["loss"] == final[line["step"]] for line in replayed)


def test_loss_falls(undisturbed):
    curve = [loss for _, loss, _ in losses(undisturbed.folder)]
    assert sum(curve[-3:]) / 3 < 0.7 * curve[0]


def test_run_folder_is_as_the_design_draws_it(undisturbed):
    names = {path.name for path in undisturbed.folder.iterdir()}
    assert {"config.yaml", "base", "metrics.jsonl", "logs", "wandb", "checkpoints", "predictions", "FINISHED"} <= names
    assert {path.name for path in (undisturbed.folder / "logs").iterdir()} == {"rank-0.log", "rank-1.log"}
    assert {path.name for path in (undisturbed.folder / "predictions").iterdir()} == {"step-6.jsonl", "step-12.jsonl"}
    assert {path.name for path in (undisturbed.folder / "checkpoints").iterdir()} == {"step-10", "step-12"}
    assert yaml.safe_load((undisturbed.folder / "config.yaml").read_text())["training"]["steps"] == STEPS


def test_only_rank_0_talks_and_makes_a_wandb_run(undisturbed):
    assert f"step {STEPS} of {STEPS}" in undisturbed.output
    assert "step" not in undisturbed.other_output
    assert len(list((undisturbed.folder / "wandb").glob("offline-run-*"))) == 1


def test_wandb_run_file_holds_every_metric_and_the_table_of_pictures(undisturbed):
    file = next((undisturbed.folder / "wandb").glob("offline-run-*/run-*.wandb"))
    steps = history(read_records(file))
    assert {"loss", "learning_rate", "gradient_norm", "tokens_per_second"} <= set(steps[STEPS])
    assert 0 < steps[STEPS]["model_tflops_per_second"] < 1
    assert {"validation_loss", "price_error_mean", "price_error_median"} <= set(steps[STEPS])
    assert [step for step in steps if "checkpoint_seconds" in steps[step]] == [6, 11]  # after those of 5 and 10
    logged = {step: values["loss"] for step, values in steps.items() if "loss" in values}
    assert logged == {step: loss for step, loss, _ in losses(undisturbed.folder)}
    tables = list(file.parent.glob("files/media/table/*.table.json"))
    assert len(tables) == 2
    told = json.loads(tables[0].read_text())
    assert len(told["data"]) == 4
    assert any("image" in name.lower() or "picture" in name.lower() for name in told["columns"])


def test_a_warning_breaks_a_validation_off_and_the_next_start_makes_up_for_it(warm, small_demo, undisturbed, tmp_path):
    words = small_demo.recipe(tmp_path / "train", *OPTIONS, "tracking.wandb=disabled", "checkpoints.keep_last=9")
    for fault, steps in (("warn:1:6", 6), ("warn-late:1:12", 12)):
        with warm.started("tests/launch/faulty_train.py", ranks_of_srun([words] * 2, FAULT=fault)) as started:
            psutil.Process(started.pids[0]).wait(200)  # srun then ends the other
        ended = started.wait(1)[0]
        assert ended.returncode == 75, ended.output
        assert f"step {steps} of {STEPS}: stopped for SIGUSR1, this step is saved" in ended.output
        assert losses(tmp_path / "train") == losses(undisturbed.folder)[: steps - 1]
    assert newest_checkpoint(tmp_path / "train").validation_loss is None
    assert [rank.returncode for rank in warm.run("launch/train.py", *words)] == [0, 0]
    told = [told_by(folder) for folder in (tmp_path / "train", undisturbed.folder)]
    assert told[0] == told[1]
    best = [line["validation_loss"] for line in lines_of(tmp_path / "train") if "validation_loss" in line]
    checkpoints = complete_checkpoints(tmp_path / "train")
    assert [c.validation_loss for c in checkpoints if c.step in (6, 12)] == best
    assert [c.unreported for c in checkpoints] == [None] * len(checkpoints)


def test_one_process_sees_the_same_steps(warm, small_demo, undisturbed, tmp_path):
    quiet = ("evaluation.every_steps=0", "tracking.wandb=disabled")
    done = warm.run_alone("launch/train.py", *small_demo.recipe(tmp_path / "alone", *OPTIONS, *quiet))
    assert done.returncode == 0, done.stderr
    one, two = lines_of(tmp_path / "alone"), lines_of(undisturbed.folder)
    for alone, expected in zip(one, two, strict=True):
        counted = ("step", "tokens", "supervised_tokens", "documents", "packs")
        assert [alone[name] for name in counted] == [expected[name] for name in counted]
    # rounding differs with the number of ranks
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], rel=0.02)


def test_finished_run_is_not_started_again(small_demo, undisturbed):
    before = (undisturbed.folder / "metrics.jsonl").read_bytes()
    done = run_tool("launch/train.py", *small_demo.recipe(undisturbed.folder, *OPTIONS))
    assert done.returncode == 0 and "is finished already" in done.stdout
    other = run_tool("launch/train.py", *small_demo.recipe(undisturbed.folder, *OPTIONS, "training.seed=99"))
    assert other.returncode == 2 and "this run is finished with other options: training.seed" in other.stderr
    assert (undisturbed.folder / "metrics.jsonl").read_bytes() == before


def test_deepspeed_launcher_trains_packs_of_8192_tokens(small_demo, tmp_path):
    options = ("packing.pack_tokens=8192", "training.steps=1", "evaluation.every_steps=0", "tracking.wandb=disabled")
    done = run(with_deepspeed(*small_demo.recipe(tmp_path / "train", *options)))
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads((tmp_path / "train/metrics.jsonl").read_text().splitlines()[0])
    assert line["tokens"] > 4096


def test_frozen_vision_is_exported_bit_for_bit_and_the_language_model_trains(warm, small_demo, tmp_path):
    """As for the real model: bf16, parameters are gathered, activations computed again."""
    as_real = (
        "training.precision=bf16",
        "model.activation_checkpointing=true",
        f"training.deepspeed_config={nothing_persists(tmp_path)}",
    )
    quiet = ("evaluation.every_steps=0", "tracking.wandb=disabled", "checkpoints.every_steps=3")
    frozen = ("model.train_vision=false", "training.steps=3", "packing.packs_per_step=3")  # an odd number: a blank pack
    recipe = small_demo.recipe(tmp_path / "train", *frozen, *as_real, *quiet)
    ranks = warm.run("launch/train.py", *recipe)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
    done = warm.run_alone("tools/consolidate.py", tmp_path / "train", tmp_path / "export")
    assert done.returncode == 0, done.stderr
    before, after = (dict(iterate_weights(folder)) for folder in (small_demo.folder / "base", tmp_path / "export"))
    still = {name for name in before if torch.equal(before[name], after[name])}
    vision = {name for name in before if "vision_embed_tokens" in name}
    assert len(vision) > 40 and vision <= still
    moved = before.keys() - still
    assert {name for name in moved if name.endswith("weight")} >= {"lm_head.weight", EMBEDDING}
    assert len(moved) > 0.7 * len(before.keys() - vision)


def test_resume_with_another_seed_is_refused_with_the_difference(warm, small_demo, undisturbed):
    (undisturbed.folder / "FINISHED").rename(undisturbed.folder / "was-finished")
    try:
        done = warm.run_alone("launch/train.py", *small_demo.recipe(undisturbed.folder, *OPTIONS, "training.seed=1"))
    finally:
        (undisturbed.folder / "was-finished").rename(undisturbed.folder / "FINISHED")
    assert done.returncode == 2
    assert "training.seed: 0 → 1" in done.stderr and "Traceback" not in done.stderr


def test_consolidated_folder_loads_and_equals_the_merge_by_deepspeed_itself(warm, undisturbed, tmp_path):
    done = warm.run_alone("tools/consolidate.py", undisturbed.folder, tmp_path / "export")
    assert done.returncode == 0, done.stderr
    checkpoint = newest_checkpoint(undisturbed.folder).folder
    words = ("--safe_serialization", "-t", "engine", checkpoint, tmp_path / "fp32")
    merged = warm.run_alone(checkpoint / "zero_to_fp32.py", *words)
    assert merged.returncode == 0, merged.stderr
    expected = load_file(tmp_path / "fp32/model.safetensors")
    model = Phi3VForCausalLM.from_pretrained(tmp_path / "export")
    state = model.state_dict()
    assert state.keys() == expected.keys()
    base = undisturbed.folder / "base"
    before = dict(iterate_weights(base))
    row = model.config.padding_token_id
    assert not torch.equal(expected[EMBEDDING][row], before[EMBEDDING][row].float())  # weight decay moved it
    expected[EMBEDDING][row] = before[EMBEDDING][row].float()  # never trained: see model/never_trained.py
    assert all(torch.equal(state[name], expected[name].bfloat16()) for name in expected)
    frozen = frozen_names(state, model.config)
    assert len(frozen) == 18
    assert all(torch.equal(state[name], before[name]) for name in frozen)
    card = (tmp_path / "export/README.md").read_text()
    assert f"| optimizer steps | {STEPS} |" in card and "`--max-model-len 4096`" in card
    assert (tmp_path / "export/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (tmp_path / "export/config.json").read_bytes() == (base / "config.json").read_bytes()
