"""What a resume may change and what it may not; checkpoints here are a marker and nothing else.

Real ones, whole and damaged: test_training_world_size.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from phi3v_dist.cluster.who import ALONE
from phi3v_dist.config.loading import LoadedConfig, load_config
from phi3v_dist.errors import CheckpointError
from phi3v_dist.training.attempts import is_finished, mark_finished
from phi3v_dist.training.resume import find_checkpoint, open_run_folder

SHARDS, MODEL = "a" * 64, "c" * 64
DATA = {"shards.folder": SHARDS, "model.folder": MODEL}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "recipe.yaml").write_text(
        f"run_folder: {tmp_path}/run\nmodel:\n  folder: {tmp_path}/model\ntraining:\n  steps: 100\n  seed: 3\n"
    )
    return tmp_path


def loaded(folder: Path, *overrides: str) -> LoadedConfig:
    return load_config(folder / "recipe.yaml", overrides)


@pytest.fixture
def run(folder: Path) -> Path:
    """A run of two ranks with a checkpoint after step 40."""
    open_run_folder(loaded(folder))
    checkpoint = folder / "run" / "checkpoints" / "step-40"
    checkpoint.mkdir(parents=True)
    told = {"step": 40, "num_ranks": 2, "trained_on": DATA, "longest_document": 7, "seconds": 1.0, "files": {}}
    (checkpoint / "COMPLETE.json").write_text(json.dumps(told | {"validation_loss": None}))
    return folder


@pytest.fixture(scope="module", autouse=True)
def group_of_one() -> Iterator[None]:
    """Without environment variables, which processes that other tests start would take for theirs."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def refusal(folder: Path, *overrides: str, data: dict[str, str] = DATA) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(loaded(folder, *overrides), data, ALONE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unchanged_start_goes_on_from_the_checkpoint(run: Path) -> None:
    checkpoint = find_checkpoint(loaded(run), DATA, ALONE)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.folder) == (40, run / "run" / "checkpoints" / "step-40")


def test_a_new_run_has_nothing_to_go_on_from(folder: Path) -> None:
    assert find_checkpoint(loaded(folder), DATA, ALONE) is None
    open_run_folder(loaded(folder))
    assert find_checkpoint(loaded(folder), DATA, ALONE) is None


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("training.seed=4", "training.seed: 3 → 4"),
        ("packing.pack_tokens=4096", "packing.pack_tokens: 8192 → 4096"),
        ("packing.packs_per_step=8", "packing.packs_per_step: 384 → 8"),
        ("documents.template=official", "documents.template: 'mission' → 'official'"),
        ("model.rope_mode=short", "model.rope_mode: 'per_document' → 'short'"),
        ("model.train_vision=false", "model.train_vision: True → False"),
        ("training.precision=fp32", "training.precision: 'bf16' → 'fp32'"),
    ],
)
def test_what_would_change_the_meaning_is_refused_with_both_values(run: Path, override: str, shown: str) -> None:
    told = refusal(run, override)
    assert shown in told
    assert "40 steps" in told


def test_all_changes_are_told_at_once(run: Path) -> None:
    told = refusal(run, "training.seed=4", "packing.pool_documents=600")
    assert "training.seed: 3 → 4" in told
    assert "packing.pool_documents: 1024 → 600" in told


@pytest.mark.parametrize(
    "override",
    [
        "training.learning_rate=1e-6",
        "training.steps=200",
        "packing.workers=0",
        "tracking.wandb=disabled",
        "evaluation.every_steps=7",
        "checkpoints.every_steps=5",
        "model.attention=sdpa",
        "model.activation_checkpointing=false",
    ],
)
def test_how_a_run_works_may_change(run: Path, override: str) -> None:
    assert find_checkpoint(loaded(run, override), DATA, ALONE) is not None


@pytest.mark.parametrize("option", ["shards.folder", "model.folder"])
def test_other_content_is_refused_and_both_fingerprints_named(run: Path, option: str) -> None:
    told = refusal(run, data=DATA | {option: "b" * 64})
    assert told.startswith(option)
    assert f"{DATA[option][:12]} → {'b' * 12}" in told


def test_steps_of_another_plan_are_refused_and_both_named(run: Path) -> None:
    told = refusal(run, data=DATA | {"packing": "plan 9"})
    assert "another version planned the steps of this run: unknown → plan 9" in told


@pytest.mark.parametrize("option", ["shards.folder", "model.folder"])
def test_equal_content_may_lie_in_another_folder(run: Path, option: str) -> None:
    assert find_checkpoint(loaded(run, f"{option}=/elsewhere"), DATA, ALONE) is not None


def test_where_no_checkpoint_is_whole_the_run_does_not_begin_anew_in_silence(run: Path) -> None:
    (run / "run" / "checkpoints" / "step-40" / "COMPLETE.json").unlink()
    assert "none of the checkpoints is whole: step-40: COMPLETE.json is missing" in refusal(run)
    assert (run / "run" / "checkpoints" / "step-40").is_dir()


def test_a_first_save_that_was_cut_off_is_a_new_run(run: Path) -> None:
    folder = run / "run" / "checkpoints" / "step-40"
    folder.rename(folder.with_name(".step-40.partial"))
    assert find_checkpoint(loaded(run, "training.seed=4"), DATA, ALONE) is None


def test_run_folder_holds_the_effective_options_and_a_link_to_the_model(folder: Path) -> None:
    started = loaded(folder, "training.seed=5")
    open_run_folder(started)
    assert load_config(folder / "run" / "config.yaml").config == started.config
    assert (folder / "run" / "base").resolve() == (folder / "model").resolve()


def test_link_follows_a_model_folder_that_was_given_anew(folder: Path) -> None:
    open_run_folder(loaded(folder))
    (folder / "other").mkdir()
    open_run_folder(loaded(folder, f"model.folder={folder}/other"))
    assert (folder / "run" / "base").resolve() == folder / "other"


def test_model_folder_may_be_the_runs_own_link_or_lie_inside_the_run(folder: Path) -> None:
    open_run_folder(loaded(folder))
    open_run_folder(loaded(folder, f"model.folder={folder}/run/base"))
    assert (folder / "run" / "base").resolve() == folder / "model"
    (folder / "whole" / "base").mkdir(parents=True)
    (folder / "whole" / "base" / "config.json").write_text("{}")
    open_run_folder(loaded(folder, f"run_folder={folder}/whole", f"model.folder={folder}/whole/base"))
    assert (folder / "whole" / "base" / "config.json").is_file()


def test_another_folder_called_base_is_left_alone(folder: Path) -> None:
    (folder / "run" / "base").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="another folder stands"):
        open_run_folder(loaded(folder))
    assert (folder / "run" / "base").is_dir()


def test_a_run_is_finished_once_it_was_marked(tmp_path: Path) -> None:
    assert not is_finished(tmp_path)
    mark_finished(tmp_path, 100)
    assert is_finished(tmp_path)
    assert json.loads((tmp_path / "FINISHED").read_text()) == {"step": 100}
