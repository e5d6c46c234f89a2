"""config.json survives: what goes in comes out, untouched by transformers, also the official files."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from formula import FOLDER

from phi3v_dist.model.configuration import HANDED_IN_ATTENTION, Phi3VConfig, local_auto_map

DEMO: dict[str, Any] = {
    "architectures": ["Phi3VForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_phi3_v.Phi3VConfig"},
    "model_type": "phi3_v",
    "vocab_size": 50,
    "hidden_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"type": "su", "short_factor": [1.05] * 6, "long_factor": [1.0299999713897705] * 6},
    "max_position_embeddings": 8192,
    "original_max_position_embeddings": 2048,
    "sliding_window": 131072,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.38.1",
    "use_cache": True,
    "tie_word_embeddings": False,
    "img_processor": {"image_dim_out": 8, "vision_config": {"hidden_size": 8, "num_attention_heads": 2}},
    "a_key_that_nobody_knows": {"deep": [1, None]},
}


def official_files() -> list[Path]:
    folder = os.environ.get("PHI3V_OFFICIAL")
    if folder is None:
        pytest.skip("PHI3V_OFFICIAL names no folder with the official files")
    return sorted(Path(folder).glob("*/config.json"))


def saved(config: Phi3VConfig, folder: Path) -> str:
    config.save_pretrained(folder)
    return (folder / "config.json").read_text(encoding="utf-8")


def canonical(raw: dict[str, Any]) -> str:
    return json.dumps(raw, sort_keys=True)


def test_saved_json_equals_the_json_that_came_and_a_second_round_too(tmp_path: Path) -> None:
    first = saved(Phi3VConfig(**DEMO), tmp_path / "a")
    again = saved(Phi3VConfig.from_pretrained(tmp_path / "a"), tmp_path / "b")
    assert canonical(json.loads(first)) == canonical(DEMO)
    assert again == first


def test_rope_scaling_stays_and_no_key_of_transformers_is_added(tmp_path: Path) -> None:
    written = json.loads(saved(Phi3VConfig(**DEMO), tmp_path))
    assert written["rope_scaling"] == DEMO["rope_scaling"]
    assert written.keys() == DEMO.keys()
    assert Phi3VConfig(**DEMO).to_dict() == Phi3VConfig(**DEMO).to_diff_dict() == DEMO


def test_the_dictionary_that_came_is_not_changed_and_not_shared() -> None:
    before = copy.deepcopy(DEMO)
    config = Phi3VConfig(**DEMO)
    config.text()
    config.vision()
    config.to_dict()["rope_scaling"]["type"] = "changed"
    config.raw["rope_scaling"]["long_factor"].append(0)
    assert before == DEMO


def test_the_stored_attention_name_stays_in_the_file_and_is_not_followed(tmp_path: Path) -> None:
    told = DEMO | {"_attn_implementation": "flash_attention_2"}
    config = Phi3VConfig(**told)
    assert json.loads(saved(config, tmp_path)) == told
    assert config.text()._attn_implementation == HANDED_IN_ATTENTION
    assert Phi3VConfig.from_pretrained(tmp_path, attn_implementation="eager").to_dict() == told


@pytest.mark.parametrize("keyword", ["dtype", "torch_dtype"])
def test_a_type_asked_for_while_loading_is_not_written(tmp_path: Path, keyword: str) -> None:
    saved(Phi3VConfig(**DEMO), tmp_path)
    config = Phi3VConfig.from_pretrained(tmp_path, **{keyword: torch.float32})
    assert config.dtype == torch.float32
    assert config.to_dict() == DEMO


def test_names_of_the_hub_become_names_of_files() -> None:
    hub = {"AutoConfig": "org/a-model--configuration_phi3_v.Phi3VConfig", "AutoTokenizer": ["org/a--slow.One", None]}
    local = {"AutoConfig": "configuration_phi3_v.Phi3VConfig", "AutoTokenizer": ["slow.One", None]}
    assert Phi3VConfig(**DEMO | {"auto_map": hub}).to_dict()["auto_map"] == local
    assert local_auto_map(local) == local


def test_a_missing_model_type_is_written() -> None:
    raw = {key: value for key, value in DEMO.items() if key != "model_type"}
    assert Phi3VConfig(**raw).to_dict()["model_type"] == "phi3_v"


def test_layers_get_the_sizes_of_the_file() -> None:
    text = Phi3VConfig(**DEMO).text()
    assert (text.hidden_size, text.num_attention_heads, text.num_key_value_heads) == (24, 2, 1)
    assert (text.num_hidden_layers, text.vocab_size, text.rms_norm_eps) == (3, 50, 1e-5)
    assert Phi3VConfig(**DEMO).head_dim == 12


def test_vision_tower_is_clip_l_336_unless_the_file_says_otherwise() -> None:
    clip = Phi3VConfig(model_type="phi3_v").vision()
    assert (clip.hidden_size, clip.intermediate_size, clip.num_hidden_layers) == (1024, 4096, 24)
    assert (clip.num_attention_heads, clip.image_size, clip.patch_size) == (16, 336, 14)
    assert (clip.hidden_act, clip.layer_norm_eps, clip.attention_dropout) == ("quick_gelu", 1e-5, 0.0)
    assert Phi3VConfig(**DEMO).vision().hidden_size == 8


@pytest.mark.parametrize(("told", "padding"), [({}, 32000), ({"pad_token_id": None}, 32000), ({"pad_token_id": 0}, 0)])
def test_padding_row_is_the_official_default_unless_the_file_names_one(told: dict[str, Any], padding: int) -> None:
    assert Phi3VConfig(**DEMO, **told).padding_token_id == padding


def check_official(raw: dict[str, Any], folder: Path) -> None:
    config = Phi3VConfig(**raw)
    assert canonical(json.loads(saved(config, folder))) == canonical(raw)
    assert canonical(Phi3VConfig.from_pretrained(folder).to_dict()) == canonical(raw)
    assert (config.hidden_size, config.head_dim, config.vocab_size, config.padding_token_id) == (3072, 96, 32064, 32000)
    text = config.text()
    assert (text.intermediate_size, text.num_hidden_layers, text.num_key_value_heads) == (8192, 32, 32)


def test_official_files_survive_whole(tmp_path: Path) -> None:
    for path in official_files():
        check_official(json.loads(path.read_text(encoding="utf-8")), tmp_path / path.parent.name)


@pytest.mark.parametrize("version", ["phi3v", "phi35v"])
def test_golden_files_survive_whole(tmp_path: Path, version: str) -> None:
    raw = json.loads((FOLDER / f"config_{version}.json").read_text(encoding="utf-8"))
    assert canonical(json.loads(saved(Phi3VConfig(**raw), tmp_path))) == canonical(raw)
