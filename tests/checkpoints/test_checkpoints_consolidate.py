"""What an export writes beside the merged weights. Merging itself: tests/training/test_training_loop.py."""

import json
from pathlib import Path

import pytest
import torch

from phi3v_dist.checkpoints import consolidate as module
from phi3v_dist.checkpoints.card import read_facts
from phi3v_dist.checkpoints.consolidate import consolidate
from phi3v_dist.documents.demo_tokenizer import build_demo_tokenizer
from phi3v_dist.errors import CheckpointError, ModelFolderError
from phi3v_dist.files import write_json
from phi3v_dist.model.demo import demo_config, demo_model
from phi3v_dist.model.folder import iterate_weights, read_config, write_folder
from phi3v_dist.model.never_trained import EMBEDDING, frozen_names

PREPROCESSOR = '{\n    "num_crops": 4,\n  "crop_size": 56, "num_img_tokens": 4\n}'


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's folder, with a README and a preprocessor file in a layout of its own."""
    side_files = tmp_path_factory.mktemp("side")
    tokenizer = build_demo_tokenizer(["Product: Silk scarf, Category: SCARVES, Full Price:"])
    ids = {token: tokenizer.token_to_id(token) for token in ("<s>", "<|endoftext|>")}
    config = demo_config(tokenizer.get_vocab_size(), ids)
    write_json(side_files / "config.json", config)
    (side_files / "preprocessor_config.json").write_text(PREPROCESSOR)
    (side_files / "README.md").write_text("# The base\n")
    tokenizer.save(str(side_files / "tokenizer.json"))
    tensors = ((name, tensor.bfloat16()) for name, tensor in demo_model(config, 0).state_dict().items())
    folder = tmp_path_factory.mktemp("models") / "the-base"
    write_folder(folder, tensors, side_files, end_ids=(2,))
    return folder


@pytest.fixture
def run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder whose newest checkpoint holds the base's weights plus one, all of them."""
    folder = tmp_path / "train"
    (folder / "checkpoints/step-8").mkdir(parents=True)
    marker = {"step": 8, "num_ranks": 1, "trained_on": {}, "files": {}, "longest_document": 700, "seconds": 1.0}
    write_json(folder / "checkpoints/step-8/COMPLETE.json", marker | {"validation_loss": None})
    (folder / "base").symlink_to(base)
    (folder / "config.yaml").write_text("run_folder: train\n")
    trained = {name: tensor.float() + 1 for name, tensor in iterate_weights(base)}
    monkeypatch.setattr(module, "_merged_weights", lambda checkpoint: trained)
    return folder


def differing(base: Path, export: Path) -> set[str]:
    names = {path.name for path in export.iterdir()}
    assert names == {path.name for path in base.iterdir()} | {"phi3v_dist.json"}
    names.remove("phi3v_dist.json")
    return {name for name in names if (base / name).read_bytes() != (export / name).read_bytes()}


def test_only_weights_and_card_differ_from_the_base(run: Path, base: Path, tmp_path: Path) -> None:
    consolidate(run, tmp_path / "export")
    told = {"README.md", "generation_config.json", "model.safetensors"}
    assert differing(base, tmp_path / "export") == told
    readme = (tmp_path / "export/README.md").read_text()
    assert readme.startswith("# The base\n")
    for row in ("began from | `the-base`", "optimizer steps | 8", "num_crops` | 4", "longest document | 700 tokens"):
        assert row in readme
    ends = json.loads((tmp_path / "export/generation_config.json").read_text())["eos_token_id"]
    tokens = {t["id"]: t["content"] for t in json.loads((base / "tokenizer.json").read_text())["added_tokens"]}
    assert {tokens[end] for end in ends} == {"<|endoftext|>", "<|end|>"}


def test_another_num_crops_is_the_one_thing_that_changes_in_the_preprocessor_file(
    run: Path, base: Path, tmp_path: Path
) -> None:
    (run / "config.yaml").write_text("documents: {num_crops: 7, template: official}\nmodel: {rope_mode: long}\n")
    consolidate(run, tmp_path / "export")
    assert "preprocessor_config.json" in differing(base, tmp_path / "export")
    written = (tmp_path / "export/preprocessor_config.json").read_text()
    assert written == PREPROCESSOR.replace('"num_crops": 4', '"num_crops": 7')
    readme = (tmp_path / "export/README.md").read_text()
    assert "`num_crops` | 7" in readme
    assert "`documents.template` | official" in readme
    assert "`--max-model-len 4097`" in readme


def test_what_never_trains_comes_from_the_base_and_all_else_from_the_checkpoint(
    run: Path, base: Path, tmp_path: Path
) -> None:
    consolidate(run, tmp_path / "export")
    before, after = dict(iterate_weights(base)), dict(iterate_weights(tmp_path / "export"))
    assert before.keys() == after.keys()
    config = read_config(base)
    frozen = frozen_names(before, config)
    for name, tensor in after.items():
        expected = before[name] if name in frozen else (before[name].float() + 1).bfloat16()
        if name == EMBEDDING:
            expected[config.padding_token_id] = before[name][config.padding_token_id]
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize(("name", "told"), [("config.yaml", "the options of this run are gone"), ("base", "is gone")])
def test_a_run_folder_that_lacks_something_is_one_line(run: Path, tmp_path: Path, name: str, told: str) -> None:
    (run / name).unlink()
    with pytest.raises(CheckpointError, match=told) as caught:
        consolidate(run, tmp_path / "export")
    assert name in caught.value.where
    assert not (tmp_path / "export").exists()


def test_facts_tell_how_to_ask_the_model(run: Path, base: Path, tmp_path: Path) -> None:
    (run / "config.yaml").write_text("documents: {template: official}\nmodel: {rope_mode: long}\n")
    consolidate(run, tmp_path / "export")
    assert read_facts(tmp_path / "export") == {"template": "official", "rope_mode": "long"}
    assert read_facts(base) == {"template": "mission", "rope_mode": "per_document"}


def test_torn_facts_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "phi3v_dist.json").write_text("{")
    with pytest.raises(ModelFolderError, match="Export the run again"):
        read_facts(tmp_path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_named(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints/step-16").mkdir()
    export = consolidate(run, tmp_path / "export")
    assert export.checkpoint.step == 8
    assert [str(damage) for damage in export.passed] == [
        f"{run}/checkpoints/step-16 is no checkpoint: COMPLETE.json is missing"
    ]
    assert "optimizer steps | 8" in (tmp_path / "export/README.md").read_text()


def test_a_step_that_was_asked_for_is_never_replaced_by_another(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints/step-16").mkdir()
    with pytest.raises(CheckpointError, match=r"step-16: COMPLETE.json is missing"):
        consolidate(run, tmp_path / "export", "16")
    assert not (tmp_path / "export").exists()
    assert consolidate(run, tmp_path / "export", "8").checkpoint.step == 8
