"""Options as a page that a user reads: each has help, nothing can be changed by accident, defaults hold."""

import json
from collections.abc import Iterator

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from phi3v_dist.config.loading import check_rooms
from phi3v_dist.config.options import Options, RunConfig


def fields(room: type[Options], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in room.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Options):
            yield from fields(field.annotation, f"{above}{name}.")
        else:
            yield above + name, field


@pytest.mark.parametrize(("key", "field"), [pytest.param(key, field, id=key) for key, field in fields(RunConfig)])
def test_every_option_has_help_that_ends_as_a_sentence(key: str, field: FieldInfo) -> None:
    assert field.description, key
    assert field.description[-1] in ".…", key


def test_every_room_has_a_docstring() -> None:
    assert all(field.annotation.__doc__ for field in RunConfig.model_fields.values() if field.annotation is not str)


def test_defaults_pass_all_checks() -> None:
    check_rooms(RunConfig())


def test_options_are_frozen() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.training.steps = 3  # type: ignore[misc]
    hash(config)  # also nothing mutable inside


def test_a_config_survives_json() -> None:
    config = RunConfig.model_validate({"training": {"learning_rate": 3e-4}, "catalog": {"currency": "EUR"}})
    assert RunConfig.model_validate(json.loads(config.model_dump_json())) == config
