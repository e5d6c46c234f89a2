"""Recipes, overrides, origins; scalars are held to the tables of the YAML 1.2 specification (core schema)."""

import math
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist.config.loading import check_rooms, describe_config, difference, list_recipes, load_config
from phi3v_dist.config.options import RunConfig
from phi3v_dist.config.yaml_text import parse_value, value_text
from phi3v_dist.errors import ConfigError

RECIPE = """# Demo on two CPU cores: make demo
run_folder: runs/demo/train
training:
  learning_rate: 1e-3
  steps: 010
model:
  train_vision: no
packing:
#  pack_tokens: 512
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(RECIPE)
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "written.yaml"
    path.write_text(text)
    return path


def test_a_recipe_is_read_as_yaml_1_2(recipe: Path) -> None:
    config = load_config(recipe).config
    assert (config.training.learning_rate, config.training.steps) == (1e-3, 10)
    assert config.model.train_vision is False
    assert config.packing == RunConfig().packing  # a room without a line left is a room of defaults


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("null", None), ("~", None), ("", None), ("true", True), ("False", False), ("0", 0), ("-12", -12), ("+7", 7)),
        *(("010", 10), ("0o14", 12), ("0x3A", 58), ("12e03", 12000.0), ("1e-5", 1e-5), ("-2E+05", -2e5), (".5", 0.5)),
        *(("0.", 0.0), ("-0.0", -0.0), (".inf", math.inf), ("-.Inf", -math.inf), ("no", "no"), ("yes", "yes")),
        *(("on", "on"), ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("'1'", "1"), ("1_000", "1_000"), ("1e", "1e")),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = parse_value(text)
    assert (found, type(found)) == (value, type(value))


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs"])) | st.sampled_from(["no", "1e5", "0o7", "010", "null", "~"])
)
def test_any_text_comes_back_from_both_yaml_versions(text: str) -> None:
    assert parse_value(value_text(text)) == text
    assert yaml.safe_load(value_text(text)) == text


@given(st.floats(0, allow_infinity=False, allow_nan=False))
def test_any_number_comes_back_from_both_yaml_versions(number: float) -> None:
    assert parse_value(value_text(number)) == number
    assert yaml.safe_load(value_text(number)) == number


def test_origins_name_line_command_line_and_default(recipe: Path) -> None:
    origins = load_config(recipe, ["training.steps=20", "training.seed=1"]).origins
    assert origins["training.learning_rate"] == f"{recipe} line 4"
    assert origins["training.steps"] == origins["training.seed"] == "command line"
    assert origins["packing.pack_tokens"] == "default"


def test_the_last_override_wins_and_rooms_may_be_absent(recipe: Path) -> None:
    config = load_config(recipe, ["catalog.columns.title=name", "training.steps=5", "training.steps=6"]).config
    assert (config.catalog.columns.title, config.training.steps) == (("name",), 6)


def test_a_described_config_reads_back_equal(recipe: Path, tmp_path: Path) -> None:
    loaded = load_config(recipe, ["tracking.run_name='no'", "training.epsilon=1e-9", "catalog.table='a#b: c/ü.csv'"])
    text = describe_config(loaded)
    again = load_config(written(tmp_path, text))
    assert again.config == loaded.config
    assert yaml.safe_load(text) == loaded.config.model_dump(mode="json")
    assert set(again.origins) == set(loaded.origins)


def test_every_described_value_has_its_origin(recipe: Path) -> None:
    loaded = load_config(recipe, ["training.steps=20"])
    lines = describe_config(loaded).splitlines()
    assert sum("  # " in line for line in lines) == len(loaded.origins)
    assert next(line for line in lines if "steps: 20" in line).endswith("# command line")


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("training.step=3", "training.steps"),
        ("training.packs_per_step=3", "packing.packs_per_step"),
        ("learning_rate=1", "training.learning_rate"),
        ("trainig.steps=1", "training.steps"),
        ("catalog.colums.title=x", "catalog.columns.title"),
        ("training.steps.more=1", "training.steps"),
    ],
)
def test_an_unknown_key_names_the_nearest(recipe: Path, override: str, near: str) -> None:
    line = message(recipe, override)
    assert line.startswith("command line: no such option")
    assert override.partition("=")[0] in line
    assert f"Did you mean {near}?" in line


def test_an_unknown_key_in_a_recipe_names_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "training:\n  steps: 3\n  lerning_rate: 1\n")
    assert message(path).startswith(f"{path} line 3: no such option (found 'training.lerning_rate')")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.steps=yes", ["training.steps", "'yes'", "integer", "Default: 0"]),
        ("training.steps=true", ["training.steps", "True", "a number is needed"]),
        ("training.learning_rate=false", ["training.learning_rate", "False"]),
        ("training.steps=2.5", ["2.5"]),
        ("training.device=gpu", ["'gpu'", "'auto', 'cpu' or 'cuda'"]),
        ("packing.pack_tokens=10", ["10", "greater than or equal to 64"]),
        ("training.beta1=.nan", ["nan"]),
        ("training.learning_rate=.inf", ["inf"]),
        ("run_folder=5", ["run_folder", "5", "string"]),
        ("training.epochs=", ["training.epochs", "'null'"]),
        ("training=4", ["training is a group of options"]),
        ("training={steps: 3}", ["one option", "training.steps="]),
        ("training.steps", ["key=value", "'training.steps'"]),
        ("catalog.table={a", ["catalog.table", "'{a'", "Quote it"]),
    ],
)
def test_a_wrong_override_says_what_is_allowed(recipe: Path, override: str, parts: list[str]) -> None:
    line = message(recipe, override)
    assert line.startswith("command line: ")
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("training:\n  steps: many\n", ["line 2", "training.steps", "'many'"]),
        ("training:\n  steps: 1\n  steps: 2\n", ["training.steps stands twice", "lines 2 and 3"]),
        ("training: [1\n", ["isn't YAML", "line 2"]),
        ("- 1\n", ["isn't a mapping"]),
        ("training: !!python/name:os.system ''\n", ["isn't YAML"]),
    ],
)
def test_a_wrong_recipe_names_the_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = written(tmp_path, text)
    line = message(path)
    assert str(path) in line
    assert all(part in line for part in parts), line


def test_a_missing_recipe_lists_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "There are none" in message(Path("x.yaml"))
    folder = tmp_path / "launch/recipes"
    folder.mkdir(parents=True)
    (folder / "demo.yaml").write_text(RECIPE)
    (folder / "bare.yaml").write_text("run_folder: x\n")
    assert "launch/recipes/bare.yaml, launch/recipes/demo.yaml" in message(Path("x.yaml"))
    assert [comment for _, comment in list_recipes()] == ["", "Demo on two CPU cores: make demo"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.steps=0", "training.epochs=0"],
        ["packing.choose_documents=2000"],
        ["catalog.heldout_share=0"],
        ["catalog.heldout_share=1"],
    ],
)
def test_options_that_contradict_each_other_are_refused(recipe: Path, overrides: list[str]) -> None:
    assert overrides[-1].partition("=")[0] in message(recipe, *overrides)


def test_nothing_need_be_held_out_where_nothing_is_evaluated(recipe: Path) -> None:
    config = load_config(recipe, ["catalog.heldout_share=0", "evaluation.every_steps=0"]).config
    check_rooms(config)


def test_difference_names_only_what_was_asked_for(recipe: Path) -> None:
    old = load_config(recipe).config
    new = load_config(recipe, ["training.seed=3", "model.folder=other", "tracking.project=x"]).config
    assert difference(old, new, ["training.seed", "model", "packing"]) == [
        ("model.folder", "base", "other"),
        ("training.seed", 0, 3),
    ]
    assert difference(old, old, ["training"]) == []
    with pytest.raises(AssertionError, match="no such options"):
        difference(old, new, ["training.sead"])


def test_numbers_never_take_booleans() -> None:
    """Walks every option: pydantic alone would read ``true`` as 1."""
    for room_name, room in RunConfig.model_fields.items():
        for name, field in getattr(room.annotation, "model_fields", {}).items():
            kinds = get_args(field.annotation) if get_origin(field.annotation) else (field.annotation,)
            if int in kinds or float in kinds:
                with pytest.raises(ValueError, match="a number is needed"):
                    RunConfig.model_validate({room_name: {name: True}})
