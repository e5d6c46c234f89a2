"""Model folders: whole or absent, and every fault of one is a line that names it. safetensors itself is the judge."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from phi3v_dist.errors import NO_ROOM, ModelFolderError
from phi3v_dist.model.folder import (
    check_names,
    fingerprint,
    iterate_weights,
    read_config,
    shapes_in,
    weight_files,
    write_folder,
)

TENSORS = {f"layer.{n}.weight": torch.arange(n, n + 16, dtype=torch.bfloat16).reshape(4, 4) for n in range(5)}
ALIAS = "model.vision_embed_tokens.wte.weight"
ROPE = {"type": "su", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
CONFIG = {"model_type": "phi3_v", "hidden_size": 16, "num_attention_heads": 2, "pad_token_id": 3, "rope_scaling": ROPE}


@pytest.fixture
def side_files(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text('{ "model_type":"phi3_v",  "pad_token_id": 3 }')
    (folder / "tokenizer.json").write_bytes(b"{\r\n}")
    (folder / "model.safetensors").write_bytes(b"old weights")
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / ".hidden").write_text("")
    return folder


def write(target: Path, side_files: Path, **options: int) -> None:
    write_folder(target, TENSORS.items(), side_files, end_ids=(9, 7), **options)


def message(folder: Path, config: object) -> str:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ModelFolderError) as caught:
        read_config(folder)
    return str(caught.value)


@pytest.mark.parametrize(("shard_bytes", "files"), [(10**9, 1), (32 * 5, 1), (32 * 2, 3), (32, 5), (1, 5)])
def test_tensors_come_back_equal_whatever_the_number_of_files(
    tmp_path: Path, side_files: Path, shard_bytes: int, files: int
) -> None:
    write(tmp_path / "new", side_files, shard_bytes=shard_bytes)
    assert len(weight_files(tmp_path / "new")) == files
    found = list(iterate_weights(tmp_path / "new"))
    assert {name for name, _ in found} == TENSORS.keys()
    for name, tensor in found:
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, TENSORS[name])
    assert shapes_in(tmp_path / "new") == dict.fromkeys(TENSORS, (4, 4))


def test_index_names_each_tensors_file_and_the_size_of_all(tmp_path: Path, side_files: Path) -> None:
    write(tmp_path / "new", side_files, shard_bytes=64)
    index = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 * 16 * 2
    assert set(index["weight_map"].values()) == {f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)}
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "new" / file, framework="pt") as opened:
            assert name in opened.keys()  # noqa: SIM118 - not a dict
            assert opened.metadata() == {"format": "pt"}


def test_one_file_needs_no_index(tmp_path: Path, side_files: Path) -> None:
    write(tmp_path / "new", side_files)
    assert load_file(tmp_path / "new" / "model.safetensors").keys() == TENSORS.keys()
    assert not (tmp_path / "new" / "model.safetensors.index.json").exists()


def test_other_files_are_copied_byte_for_byte_and_old_weights_are_not(tmp_path: Path, side_files: Path) -> None:
    write(tmp_path / "new", side_files, shard_bytes=64)
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "new" / name).read_bytes() == (side_files / name).read_bytes()
    names = {path.name for path in (tmp_path / "new").iterdir() if not path.name.startswith("model")}
    assert names == {"config.json", "tokenizer.json", "generation_config.json"}


def test_generation_config_has_the_end_tokens_that_were_given(tmp_path: Path, side_files: Path) -> None:
    (side_files / "generation_config.json").write_text('{"eos_token_id": 2}')
    write(tmp_path / "new", side_files)
    told = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert told == {"bos_token_id": 1, "eos_token_id": [7, 9], "pad_token_id": 3}


def test_weights_may_be_read_by_whoever_may_read_the_config(tmp_path: Path, side_files: Path) -> None:
    (side_files / "config.json").chmod(0o644)
    write(tmp_path / "new", side_files)
    modes = {(tmp_path / "new" / name).stat().st_mode & 0o777 for name in ("model.safetensors", "tokenizer.json")}
    assert modes == {0o644}


def test_an_exception_in_the_middle_leaves_nothing(tmp_path: Path, side_files: Path) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.zeros(2)
        yield "b", torch.zeros(2)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_folder(tmp_path / "new", broken(), side_files, end_ids=(1,), shard_bytes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_full_disk_names_the_file_and_leaves_no_folder(tmp_path: Path, side_files: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*part-0") as caught:
            write(tmp_path / "new", side_files, shard_bytes=10**9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno in NO_ROOM
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_folder_that_exists_is_left_alone(tmp_path: Path, side_files: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(ModelFolderError, match="exists already"):
        write(tmp_path / "new", side_files)
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_writer_left_is_no_hindrance(tmp_path: Path, side_files: Path) -> None:
    (tmp_path / ".new.partial").mkdir()
    (tmp_path / ".new.partial" / "part-9").write_text("half")
    write(tmp_path / "new", side_files)
    assert not any("part" in path.name for path in [*tmp_path.iterdir(), *(tmp_path / "new").iterdir()])


def test_the_alias_of_the_embedding_is_left_out(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2), ALIAS: torch.ones(2)}, tmp_path / "model.safetensors")
    assert [name for name, _ in iterate_weights(tmp_path)] == ["a"]
    assert shapes_in(tmp_path) == {"a": (2,)}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"a": (2,)}, r"1 tensors are missing \(found \['b'\]\)"),
        ({"a": (2,), "b": (3, 4), "c": (1,)}, r"1 tensors are not part of this model \(found \['c'\]\)"),
        ({"a": (2,), "b": (4, 3)}, r"1 tensors have other shapes .*\(found \['b \(4, 3\)'\]\)"),
    ],
)
def test_names_and_shapes_that_differ_are_named(found: dict[str, tuple[int, ...]], told: str) -> None:
    with pytest.raises(ModelFolderError, match=told):
        check_names({"a": (2,), "b": (3, 4)}, found, "folder")


def test_equal_names_and_shapes_pass_in_any_order() -> None:
    check_names({"a": (2,), "b": (3, 4)}, {"b": (3, 4), "a": (2,)}, "folder")


@pytest.mark.parametrize("kept", [0, 3, 8, 100, 400, -1])
def test_a_weight_file_that_is_cut_off_is_one_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    for read in (lambda: list(iterate_weights(tmp_path)), lambda: shapes_in(tmp_path)):
        with pytest.raises(ModelFolderError, match="damaged") as caught:
            read()
        assert caught.value.where == str(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", ["", '{"weight_map": ', "{}", "[]", '{"weight_map": ["a"]}'])
def test_an_index_that_cannot_be_read_is_one_line(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelFolderError, match=r"index\.json: index of weight files can't be read"):
        weight_files(tmp_path)


def test_a_missing_weight_file_is_named(tmp_path: Path, side_files: Path) -> None:
    write(tmp_path / "new", side_files, shard_bytes=64)
    (tmp_path / "new" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"model-00002-of-00003\.safetensors: a weight file is missing"):
        shapes_in(tmp_path / "new")
    with pytest.raises(ModelFolderError, match=r"model\.safetensors: a weight file is missing"):
        weight_files(tmp_path)


@pytest.mark.parametrize("config", ["", '{"model_type": ', "[]", "3", {}, {"model_type": "phi3"}, {"model_type": 1}])
def test_a_config_of_another_model_or_none_is_one_line(tmp_path: Path, config: object) -> None:
    told = message(tmp_path, config)
    assert told.startswith(f"{tmp_path}/config.json: ")
    assert "\n" not in told


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="has no config"):
        read_config(tmp_path)


def test_a_config_saved_by_transformers_5_is_refused_since_it_would_train_without_longrope(tmp_path: Path) -> None:
    saved = {key: value for key, value in CONFIG.items() if key != "rope_scaling"} | {"rope_parameters": ROPE}
    assert "rope_parameters" in message(tmp_path, saved)


@pytest.mark.parametrize(
    "change", [{"type": "yarn"}, {"type": None}, {"short_factor": [1.0] * 3}, {"long_factor": None}]
)
def test_a_rope_that_the_formula_does_not_know_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    assert "rope_scaling" in message(tmp_path, CONFIG | {"rope_scaling": ROPE | change})


@pytest.mark.parametrize("kind", ["su", "longrope"])
def test_a_good_config_is_read(tmp_path: Path, kind: str) -> None:
    raw = CONFIG | {"rope_scaling": ROPE | {"type": kind}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert read_config(tmp_path).to_dict() == raw


def test_fingerprint_sees_other_weights_and_other_side_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(3_000_000))
    prints = {fingerprint(tmp_path)}
    weights.write_bytes(bytes(2_000_000) + bytes([1]) * 1_000_000)
    prints.add(fingerprint(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    prints.add(fingerprint(tmp_path))
    assert len(prints) == 3
    assert fingerprint(tmp_path) in prints
