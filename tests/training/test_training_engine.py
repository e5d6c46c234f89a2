"""What DeepSpeed is told: the settings file and what options decide, and never both about one thing."""

import json
from pathlib import Path
from typing import Any

import pytest
from launching import REPOSITORY

from phi3v_dist.config.options import RunConfig
from phi3v_dist.errors import ConfigError
from phi3v_dist.training.engine import deepspeed_settings

STAGE_3 = {"zero_optimization": {"stage": 3}}


def recipe(file: Path, **training: object) -> RunConfig:
    return RunConfig.model_validate({"training": {"deepspeed_config": str(file), **training}})


def told(folder: Path, settings: dict[str, Any]) -> str:
    """The line with which these settings are refused."""
    file = folder / "own.json"
    file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError) as caught:
        deepspeed_settings(recipe(file))
    line = str(caught.value)
    assert line.startswith("training.deepspeed_config: ") and "\n" not in line and "ds_configs/zero3.json" in line
    return line


@pytest.mark.parametrize(("precision", "bf16"), [("bf16", True), ("fp32", False)])
def test_options_decide_step_size_clipping_and_precision(tmp_path: Path, precision: str, bf16: bool) -> None:
    (tmp_path / "own.json").write_text(json.dumps(STAGE_3 | {"steps_per_print": 7}))
    assert deepspeed_settings(recipe(tmp_path / "own.json", precision=precision, gradient_clipping=0.5)) == {
        "zero_optimization": {"stage": 3},
        "steps_per_print": 7,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": bf16},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
    }


@pytest.mark.parametrize("file", sorted((REPOSITORY / "ds_configs").glob("*.json")), ids=lambda file: file.name)
def test_our_own_files_are_taken(file: Path) -> None:
    assert deepspeed_settings(recipe(file))["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize(
    "key",
    [
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "optimizer",
        "scheduler",
        "fp16",
        "bf16",
        "amp",
        "communication_data_type",
        "data_types",
    ],
)
def test_a_file_that_sets_what_options_decide_is_refused_by_the_keys_name(tmp_path: Path, key: str) -> None:
    assert f"sets what our options decide: {key}. " in told(tmp_path, STAGE_3 | {key: 1})


def test_all_such_keys_are_named_at_once(tmp_path: Path) -> None:
    settings = {"optimizer": {"type": "Adam"}, **STAGE_3, "bf16": {"enabled": True}}
    assert ": optimizer, bf16. " in told(tmp_path, settings)


def test_a_file_for_transformers_trainer_is_refused_with_each_auto(tmp_path: Path) -> None:
    zero = {"stage": 3, "reduce_bucket_size": "auto", "offload_optimizer": {"device": "auto"}}
    line = told(tmp_path, {"zero_optimization": zero, "gradient_clipping": "auto"})
    named = "zero_optimization.reduce_bucket_size, zero_optimization.offload_optimizer.device, gradient_clipping"
    assert f'("auto"): {named}. ' in line


@pytest.mark.parametrize("stage", [0, 2])
def test_another_stage_is_refused(tmp_path: Path, stage: int) -> None:
    assert f"ZeRO stage {stage}" in told(tmp_path, {"zero_optimization": {"stage": stage}})
