"""Each fault that a model folder can have is found and named; what is only unusual is a notice."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from official_layout import write_official_folder
from safetensors.torch import load_file, save_file

from phi3v_dist.errors import ModelFolderError
from phi3v_dist.files import sha256_of, write_json
from phi3v_dist.model.check import FAULT, FINE, KNOWN, NOTICE, PHI_3, PHI_35, check_fit, check_folder, check_values
from phi3v_dist.model.demo import demo_config, demo_model, demo_preprocessor_config
from phi3v_dist.model.folder import ALIAS, iterate_weights, read_config, write_folder

INDEX = "model.safetensors.index.json"
CONFIG = demo_config(300, {"<s>": 1, "<|endoftext|>": 260})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    side_files = tmp_path_factory.mktemp("side")
    write_json(side_files / "config.json", CONFIG)
    write_json(side_files / "preprocessor_config.json", demo_preprocessor_config())
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (side_files / name).write_text("{}")
    tensors = ((name, tensor.bfloat16()) for name, tensor in demo_model(CONFIG, 0).state_dict().items())
    folder = tmp_path_factory.mktemp("models") / "whole"
    write_folder(folder, tensors, side_files, end_ids=(260,), shard_bytes=650_000)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def told(folder: Path, state: str) -> dict[str, str]:
    return {part.part: part.told for part in check_folder(folder) if part.state == state}


def values(folder: Path) -> tuple[str, str]:
    found = check_values(iterate_weights(folder))
    return found.state, found.told


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Edit the tensors of the folder's first weight file."""
    path = folder / "model-00001-of-00003.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def first_weight(folder: Path) -> str:
    return next(name for name in load_file(folder / "model-00001-of-00003.safetensors") if name.endswith("weight"))


def test_a_whole_folder_has_no_fault(folder: Path) -> None:
    assert told(folder, FAULT) == {}
    fine = told(folder, FINE)
    assert fine["config"] == "phi3_v, 2 layers of width 128, RoPE su"
    assert fine["weight files"].startswith("3 files")
    assert fine["names and shapes"].startswith("92 tensors")
    assert fine["types"] == "92 BF16"
    assert values(folder) == (FINE, "all finite in 92 tensors")


def test_side_files_that_are_not_official_are_a_notice(folder: Path) -> None:
    assert all("changed" in told(folder, NOTICE)[name] for name in KNOWN)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("tokenizer.json", FAULT),
        ("preprocessor_config.json", FAULT),
        ("config.json", FAULT),
        ("tokenizer_config.json", NOTICE),
        ("special_tokens_map.json", NOTICE),
    ],
)
def test_a_missing_side_file_is_a_fault_where_training_reads_it(folder: Path, name: str, state: str) -> None:
    (folder / name).unlink()
    assert "missing" in told(folder, state)[name]


def test_every_missing_weight_file_is_named(folder: Path) -> None:
    for number in (1, 3):
        (folder / f"model-0000{number}-of-00003.safetensors").unlink()
    fault = told(folder, FAULT)["weight files"]
    assert "model-00001-of-00003" in fault and "model-00003-of-00003" in fault


def test_a_folder_without_weights_is_told_so(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    assert "neither model.safetensors nor" in told(folder, FAULT)["weight files"]


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": 3}'])
def test_an_index_that_cannot_be_read_is_a_fault(folder: Path, content: str) -> None:
    (folder / INDEX).write_text(content)
    assert "can't be read" in told(folder, FAULT)["weight files"]


def test_a_missing_tensor_is_named(folder: Path) -> None:
    name = first_weight(folder)
    change(folder, lambda tensors: tensors.pop(name))
    assert name in told(folder, FAULT)["names and shapes"]


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    name = first_weight(folder)
    change(folder, lambda tensors: tensors.update({name: torch.zeros(3, dtype=torch.bfloat16)}))
    assert f"{name} (3,)" in told(folder, FAULT)["names and shapes"]


def test_an_index_of_other_tensors_than_the_files_hold_is_a_fault(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"].pop("lm_head.weight")
    write_json(folder / INDEX, index)
    assert "lm_head.weight" in told(folder, FAULT)["names and shapes"]


def test_the_alias_of_third_party_folders_is_no_fault(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({ALIAS: torch.ones(2, dtype=torch.bfloat16)}))
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][ALIAS] = "model-00001-of-00003.safetensors"
    write_json(folder / INDEX, index)
    assert told(folder, FAULT) == {}


@pytest.mark.parametrize(("dtype", "state"), [(torch.float32, NOTICE), (torch.float16, NOTICE), (torch.int64, FAULT)])
def test_other_types_are_told(folder: Path, dtype: torch.dtype, state: str) -> None:
    name = first_weight(folder)
    change(folder, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    assert "91 BF16" in told(folder, state)["types"]


def test_a_weight_file_that_was_cut_off_is_a_fault(folder: Path) -> None:
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert {"names and shapes", "types"} == told(folder, FAULT).keys()
    assert values(folder)[0] == FAULT


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_single_value_that_is_not_finite_is_found(folder: Path, value: float) -> None:
    name = first_weight(folder)
    change(folder, lambda tensors: tensors[name].view(-1)[-1:].fill_(value))
    assert told(folder, FAULT) == {}
    state, text = values(folder)
    assert state == FAULT and name in text


def test_a_weight_of_nothing_but_zeros_is_found_and_a_bias_may_be_zero(folder: Path) -> None:
    assert not any(dict(iterate_weights(folder))["model.vision_embed_tokens.img_projection.0.bias"])
    name = first_weight(folder)
    change(folder, lambda tensors: tensors[name].zero_())
    state, text = values(folder)
    assert state == FAULT and text.startswith(f"1 weights are nothing but zeros: {name}")


def test_official_code_that_auto_map_names_and_the_folder_lacks_is_a_notice(folder: Path) -> None:
    names = {"AutoConfig": "configuration_phi3_v.Phi3VConfig", "AutoModelForCausalLM": "org/m--modeling_phi3_v.Model"}
    write_json(folder / "config.json", CONFIG | {"auto_map": names})
    (folder / "configuration_phi3_v.py").write_text("")
    assert told(folder, NOTICE)["official code"].startswith("modeling_phi3_v.py missing")
    (folder / "modeling_phi3_v.py").write_text("")
    assert told(folder, FINE)["official code"] == "configuration_phi3_v.py, modeling_phi3_v.py"


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="no such folder"):
        check_folder(tmp_path / "nowhere")


def test_tokens_and_crops_must_fit_the_model(folder: Path) -> None:
    config = read_config(folder)
    assert check_fit(config, 300, 56, folder) == "300 tokens for 300 rows, crops of 56 pixels"
    with pytest.raises(ModelFolderError, match="more tokens than the 300"):
        check_fit(config, 301, 56, folder)
    with pytest.raises(ModelFolderError, match="crops of another size"):
        check_fit(config, 300, 336, folder)


@pytest.mark.parametrize(("version", "model"), [("phi3v", PHI_3), ("phi35v", PHI_35)])
def test_known_hashes_are_those_of_the_official_files(tmp_path: Path, version: str, model: str) -> None:
    official = os.environ.get("PHI3V_OFFICIAL")
    if official is None:
        pytest.skip("PHI3V_OFFICIAL names no folder with the official files")
    source = Path(official, version)
    assert {name: known[model] for name, known in KNOWN.items()} == {name: sha256_of(source / name) for name in KNOWN}
    write_official_folder(tmp_path / "model")
    for name in KNOWN:
        shutil.copyfile(source / name, tmp_path / "model" / name)
    fine = told(tmp_path / "model", FINE)
    assert all(model in fine[name] for name in KNOWN)
    assert fine["names and shapes"] == "592 tensors, 4,146,621,440 parameters, as config.json says"


@pytest.fixture(scope="module")
def demo_copy(small_demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield Path(shutil.copytree(small_demo.folder / "base", tmp_path_factory.mktemp("copy") / "base"))


def test_tool_ends_with_0_for_a_whole_folder_and_with_2_and_the_parts_for_another(warm, demo_copy: Path) -> None:
    done = warm.run_alone("tools/check_model.py", demo_copy)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"{demo_copy} is whole"), done.stderr
    assert "all finite in 92 tensors" in done.stdout
    (demo_copy / "tokenizer.json").write_text("{}")
    done = warm.run_alone("tools/check_model.py", "--quick", demo_copy)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.splitlines()[-1] == f"{demo_copy} is NOT whole: tokenizer, crops"
