"""The official folders of both models, at full size: names, shapes, what is read and what is written back.

Where ``PHI3V_OFFICIAL`` names the official files (weights are not among them) they are the judge; everywhere facts
phi3v.md, section 7, is (official_layout.py), and the ``safetensors`` library as a reader of its own.
"""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from formula import FOLDER, MANIFEST, golden_model
from official_layout import CONFIG, TOTAL_BYTES, official_shapes, write_official_folder
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import phi3v_dist
from phi3v_dist.model import Phi3VConfig, Phi3VForCausalLM
from phi3v_dist.model.folder import check_names, end_token_ids, iterate_weights, read_config, shapes_in, write_folder

HUB = "microsoft/Phi-3-vision-128k-instruct--"
SIDE_FILES = {
    "LICENSE": b"MIT",
    "configuration_phi3_v.py": b"# official code\r\n",
    "special_tokens_map.json": b'{"b": 1,\t"a": 2}',
    "tokenizer.json": json.dumps(
        {"added_tokens": [{"content": "<|endoftext|>", "id": 500}, {"content": "<|end|>", "id": 507}]}
    ).encode(),
    "tokenizer_config.json": b'{"model_max_length": 131072,\n"tokenizer_class":"LlamaTokenizer"}',
}


def official(version: str) -> Path:
    folder = os.environ.get("PHI3V_OFFICIAL")
    if folder is None:
        pytest.skip("PHI3V_OFFICIAL names no folder with the official files")
    return Path(folder) / version


def full_size(config: Phi3VConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Phi3VForCausalLM(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def told(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden model in bf16 as a folder of two files, ``auto_map`` in the hub's form, other files beside."""
    side_files = tmp_path_factory.mktemp("side")
    for name, content in SIDE_FILES.items():
        (side_files / name).write_bytes(content)
    config = told(FOLDER / "config_phi3v.json")
    config["img_processor"]["vision_config"] = MANIFEST["clip"]
    config |= {"pad_token_id": MANIFEST["padding_token"], "torch_dtype": "bfloat16"}
    (side_files / "config.json").write_text(json.dumps(config))
    folder = tmp_path_factory.mktemp("models") / "base"
    tensors = ((name, tensor.bfloat16()) for name, tensor in golden_model().state_dict().items())
    write_folder(folder, tensors, side_files, end_ids=(500, 507), shard_bytes=20_000_000)
    config["auto_map"] = {key: HUB + name for key, name in CONFIG["auto_map"].items()}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def test_full_size_model_has_the_592_official_names_and_shapes() -> None:
    shapes = full_size(Phi3VConfig(**CONFIG))
    assert len(shapes) == 592
    assert shapes == official_shapes()
    assert sum(2 * math.prod(shape) for shape in shapes.values()) == TOTAL_BYTES


@pytest.mark.parametrize("version", ["phi3v", "phi35v"])
def test_official_config_makes_the_model_that_the_official_index_lists(version: str) -> None:
    index = told(official("phi3v") / "model.safetensors.index.json")
    shapes = full_size(read_config(official(version)))
    assert sorted(shapes) == sorted(index["weight_map"])
    assert shapes == official_shapes()
    assert sum(2 * math.prod(shape) for shape in shapes.values()) == index["metadata"]["total_size"] == TOTAL_BYTES


def test_reader_takes_a_folder_in_the_official_layout_and_size(tmp_path: Path) -> None:
    write_official_folder(tmp_path / "official")
    shapes = shapes_in(tmp_path / "official")
    check_names(full_size(read_config(tmp_path / "official")), shapes, tmp_path)
    names = [name for name, _ in iterate_weights(tmp_path / "official", {"model.norm.weight", "lm_head.weight"})]
    assert sorted(names) == ["lm_head.weight", "model.norm.weight"]


def test_auto_classes_load_a_folder_whose_config_names_remote_code(base: Path) -> None:
    for _ in range(2):
        phi3v_dist.register()
    assert type(AutoConfig.from_pretrained(base)) is Phi3VConfig
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert type(model) is Phi3VForCausalLM
    state = golden_model().state_dict()  # every golden value is exact in bf16
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert state.keys() == model.state_dict().keys()


@pytest.mark.parametrize("version", ["phi3v", "phi35v"])
def test_auto_classes_make_the_official_models(version: str) -> None:
    phi3v_dist.register()
    config = AutoConfig.from_pretrained(official(version))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert type(model) is Phi3VForCausalLM
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_146_621_440


def check_saved(saved: Path, base: Path, expected: dict[str, torch.Tensor]) -> None:
    """Names, values and metadata as ``safetensors`` reads them, and every other file."""
    found: dict[str, torch.Tensor] = {}
    for path in saved.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
        found |= load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert told(saved / "config.json") == told(base / "config.json") | {"auto_map": CONFIG["auto_map"]}
    assert set(told(saved / "config.json")["rope_scaling"]) == {"type", "short_factor", "long_factor"}
    for name, content in SIDE_FILES.items():
        assert (saved / name).read_bytes() == content, name
    assert told(saved / "generation_config.json")["eos_token_id"] == [500, 507]
    shapes = shapes_in(saved)
    check_names(full_size(read_config(saved)), shapes, saved)


def test_save_pretrained_writes_the_official_layout(base: Path, tmp_path: Path) -> None:
    model = Phi3VForCausalLM.from_pretrained(base)
    model.save_pretrained(tmp_path / "one")
    check_saved(tmp_path / "one", base, dict(iterate_weights(base)))
    assert (tmp_path / "one/config.json").read_text() == (base / "config.json").read_text().replace(HUB, "")
    model.save_pretrained(tmp_path / "many", max_shard_size="10MB")
    check_saved(tmp_path / "many", base, dict(iterate_weights(base)))
    index = told(tmp_path / "many/model.safetensors.index.json")
    assert index["weight_map"].keys() == shapes_in(base).keys()
    assert index["metadata"]["total_size"] == 2 * sum(map(math.prod, shapes_in(base).values()))


def test_a_config_that_was_changed_after_loading_is_saved_changed(base: Path, tmp_path: Path) -> None:
    model = Phi3VForCausalLM.from_pretrained(base)
    model.config.raw["use_cache"] = False
    model.save_pretrained(tmp_path)
    assert told(tmp_path / "config.json") == model.config.raw


def test_save_pretrained_over_the_folder_it_came_from_leaves_the_other_files_alone(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    before = dict(iterate_weights(folder))
    Phi3VForCausalLM.from_pretrained(folder).save_pretrained(folder)
    check_saved(folder, base, before)


def test_save_pretrained_of_a_new_model_drops_and_ties_nothing(tmp_path: Path) -> None:
    model = golden_model()
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)  # equal, not the same
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    found = load_file(tmp_path / "model.safetensors")
    expected = model.state_dict()
    assert found.keys() == expected.keys() == {name for name, _ in MANIFEST["parameters"]}
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_written_folder_passes_the_reader_and_its_names_in_auto_map_are_local(base: Path, tmp_path: Path) -> None:
    (tmp_path / "new").parent.mkdir(exist_ok=True)
    write_folder(tmp_path / "new", iterate_weights(base), base, end_ids=end_token_ids(base))
    check_saved(tmp_path / "new", base, dict(iterate_weights(base)))
    # not a byte beside the names changes
    source, written = ((folder / "config.json").read_text() for folder in (base, tmp_path / "new"))
    assert HUB in source
    assert written == source.replace(HUB, "")


@pytest.mark.parametrize("version", ["phi3v", "phi35v"])
def test_official_side_files_are_copied_byte_for_byte_and_generation_ends_at_the_right_tokens(
    tmp_path: Path, version: str
) -> None:
    source = official(version)
    ids = end_token_ids(source)
    write_folder(tmp_path / "new", [("a", torch.zeros(1))], source, end_ids=ids)
    for path in source.iterdir():
        if path.name not in ("generation_config.json", "model.safetensors.index.json"):
            assert (tmp_path / "new" / path.name).read_bytes() == path.read_bytes(), path.name
    assert told(tmp_path / "new/generation_config.json") == {
        "bos_token_id": 1,
        "eos_token_id": [32000, 32007],
        "pad_token_id": 32000,
    }
    assert not (tmp_path / "new/model.safetensors.index.json").exists()
