"""From a YAML recipe and ``key=value`` overrides to one checked ``RunConfig`` that knows where each value came from.

Enters: a recipe's path and overrides. Leaves: a ``LoadedConfig``, or a ``ConfigError`` that names file and line, key,
value and what is allowed. Overrides are laid over the raw dictionary and everything is validated once: a value that
came in later is held to the same rules, and an error knows its origin.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from phi3v_dist.config.options import Options, RunConfig
from phi3v_dist.config.yaml_text import parse_mapping, parse_value, value_text
from phi3v_dist.errors import ConfigError

RECIPES = Path("launch/recipes")
COMMAND_LINE = "command line"
DEFAULT = "default"


@dataclass(frozen=True)
class LoadedConfig:
    """``origins``: dotted key of every option → recipe and line, ``command line`` or ``default``."""

    config: RunConfig
    origins: dict[str, str]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read a recipe, lay overrides such as ``training.steps=20`` over it, check the whole. Raises ``ConfigError``."""
    raw, origins = _read_recipe(Path(path))
    for override in overrides:
        _lay_over(raw, origins, override)
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        raise _first_error(error, origins, str(path)) from None
    check_rooms(config)
    return LoadedConfig(config, {key: _origin_of_leaf(key, origins) for key, _ in _leaves(config)})


def check_rooms(config: RunConfig) -> None:
    """Checks that need more than one option. Raises ``ConfigError``."""
    training, packing, evaluation = config.training, config.packing, config.evaluation
    if training.steps == 0 and training.epochs == 0:
        raise ConfigError(
            "nothing would be trained, both are 0", where="training.steps, training.epochs", mend="Set one of them."
        )
    if packing.choose_documents > packing.pool_documents:
        raise ConfigError(
            f"more candidates than the {packing.pool_documents} documents of packing.pool_documents",
            where="packing.choose_documents",
            value=packing.choose_documents,
            mend=f"Set it to {packing.pool_documents} or less.",
        )
    if not config.catalog.columns.currency and config.catalog.currency is None:
        mend = "Name the currency of all prices, as in catalog.currency=EUR"
        raise ConfigError("no column says the currency", where="catalog.columns.currency", value="null", mend=mend)
    if config.catalog.heldout_share == 1:
        mend = "Set a share below 1."
        raise ConfigError("no product would be left to train on", where="catalog.heldout_share", value=1, mend=mend)
    asks = evaluation.every_steps > 0 and evaluation.loss_packs + evaluation.generate_products > 0
    if config.catalog.heldout_share == 0 and asks:
        raise ConfigError(
            "no product would be held out for evaluation",
            where="catalog.heldout_share",
            value=0,
            mend="Set a share above 0, or evaluation.every_steps=0.",
        )


def describe_config(loaded: LoadedConfig) -> str:
    """The effective configuration as YAML, each value's origin as a comment. ``load_config`` reads it back."""
    lines: list[tuple[str, str]] = []
    room = ""
    for key, value in _leaves(loaded.config):
        *above, name = key.split(".")
        for depth, part in enumerate(above):
            if not f"{room}.".startswith(".".join(above[: depth + 1]) + "."):
                lines.append(("  " * depth + part + ":", ""))
        room = ".".join(above)
        lines.append(("  " * len(above) + f"{name}: {value_text(value)}", loaded.origins[key]))
    width = min(48, max(len(text) for text, _ in lines))
    return "\n".join(f"{text:{width}}  # {origin}" if origin else text for text, origin in lines) + "\n"


def difference(old: RunConfig, new: RunConfig, keys: Iterable[str]) -> list[tuple[str, object, object]]:
    """(key, old value, new value) of each option that differs. ``keys``: dotted options, or rooms for all of theirs."""
    wanted = tuple(keys)
    before, after = dict(_leaves(old)), dict(_leaves(new))
    unknown = [key for key in wanted if not any(_within(leaf, key) for leaf in after)]
    assert not unknown, f"no such options: {unknown}"
    return [
        (leaf, before[leaf], after[leaf])
        for leaf in after
        if before[leaf] != after[leaf] and any(_within(leaf, key) for key in wanted)
    ]


def list_recipes(folder: str | Path = RECIPES) -> list[tuple[Path, str]]:
    """Recipes of a folder, each with its first comment line (empty if it has none)."""
    recipes = []
    for path in sorted(Path(folder).glob("*.yaml")):
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        recipes.append((path, comments[0].lstrip("# ").rstrip() if comments else ""))
    return recipes


def _read_recipe(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        raw, lines = parse_mapping(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        names = ", ".join(str(recipe) for recipe, _ in list_recipes())
        mend = f"There is: {names}." if names else f"There are none in {RECIPES}; start in the checkout's folder."
        raise ConfigError("no such recipe", where=str(path), mend=mend) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = str(path) if mark is None else f"{path} line {mark.line + 1}"
        what = f"isn't YAML: {getattr(error, 'problem', None) or error}"
        raise ConfigError(what, where=where, mend="Mend the line or the one above.") from None
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", where=str(path), mend="Name a recipe.") from None
    except UnicodeDecodeError as error:
        raise ConfigError("isn't UTF-8 text", where=str(path), value=error.reason, mend="Name a recipe.") from None
    except ValueError as error:
        raise ConfigError(str(error), where=str(path), mend="See launch/recipes for how one looks.") from None
    _open_empty_rooms(raw)
    return raw, {key: f"{path} line {line}" for key, line in lines.items()}


def _open_empty_rooms(raw: dict[str, Any]) -> None:
    """``training:`` with all its lines commented out is null; what is meant is: nothing but defaults."""
    for name, field in RunConfig.model_fields.items():
        if _room_of(field) is not None and name in raw and raw[name] is None:
            raw[name] = {}


def _lay_over(raw: dict[str, Any], origins: dict[str, str], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            "an override has the form key=value", where=COMMAND_LINE, value=override, mend="As in training.steps=20"
        )
    try:
        value = parse_value(text)
    except yaml.YAMLError:
        raise ConfigError(f"the value of {key} isn't YAML", where=COMMAND_LINE, value=text, mend="Quote it.") from None
    if isinstance(value, dict):  # it would wipe out what the recipe says about the other options of the room
        mend = f"Write them one by one, as in {key}.{next(iter(value), '…')}=…"
        raise ConfigError("an override sets one option", where=COMMAND_LINE, value=override, mend=mend)
    *above, name = key.split(".")
    inner = raw
    for part in above:
        deeper = inner.setdefault(part, {})
        if not isinstance(deeper, dict):
            raise _unknown_key(key, COMMAND_LINE)
        inner = deeper
    inner[name] = value
    origins[key] = COMMAND_LINE


def _first_error(error: ValidationError, origins: dict[str, str], path: str) -> ConfigError:
    """One line for the first fault; unknown keys before wrong values, as they are the likelier cause."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":  # a place inside a list or mapping: the option is what a user knows
        key = next((known for known in _prefixes(key) if _field_of(known) is not None), key)
    if key not in origins:  # a room that an override of one of its options brought in
        key = next((inner for inner in origins if _within(inner, key)), key)
    where = _origin_of(key, origins) or path
    return _unknown_key(key, where) if fault["type"] == "extra_forbidden" else _wrong_value(key, where, fault)


def _wrong_value(key: str, where: str, fault: ErrorDetails) -> ConfigError:
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    field = _field_of(key)
    if field is None or _room_of(field) is not None:
        mend = f"Write its options below it, as in {key}.{next(_names_below(key), '…')}=…"
        return ConfigError(f"{key} is a group of options", where=where, value=fault["input"], mend=mend)
    mend = f"It is: {field.description} Default: {value_text(field.default)}"
    allowed = fault.get("ctx", {}).get("expected", "") if fault["type"] == "literal_error" else ""
    if near := get_close_matches(str(fault["input"]), re.findall("'([^']+)'", allowed), n=1):
        mend = f"Did you mean {near[0]}? {mend}"
    what = f"{key} {message}" if message.startswith("should") else f"{key}: {message}"
    value = "null" if fault["input"] is None else fault["input"]
    return ConfigError(what, where=where, value=value, mend=mend)


def _unknown_key(key: str, where: str) -> ConfigError:
    known = list(_all_keys(RunConfig))
    same_name = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same_name or get_close_matches(key, known, n=1, cutoff=0.5)
    mend = f"Did you mean {near[0]}?" if near else "phi3v_dist/config/options.py lists every option."
    return ConfigError("no such option", where=where, value=key, mend=mend)


def _origin_of(key: str, origins: dict[str, str]) -> str | None:
    """Origin of a key, or of the nearest room above it."""
    return next((origins[above] for above in _prefixes(key) if above in origins), None)


def _origin_of_leaf(key: str, origins: dict[str, str]) -> str:
    """Origin of an option; of a mapping, the last of its entries' if it has none of its own."""
    inner = [origin for other, origin in origins.items() if _within(other, key)]
    return origins.get(key) or (inner[-1] if inner else DEFAULT)


def _prefixes(key: str) -> Iterator[str]:
    """The key, then the keys above it."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _within(leaf: str, key: str) -> bool:
    return leaf == key or leaf.startswith(f"{key}.")


def _leaves(options: Options, above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every option that is no room."""
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, Options):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def _all_keys(room: type[Options], above: str = "") -> Iterator[str]:
    for name, field in room.model_fields.items():
        yield above + name
        if (inner := _room_of(field)) is not None:
            yield from _all_keys(inner, f"{above}{name}.")


def _room_of(field: FieldInfo) -> type[Options] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Options) else None


def _field_of(key: str) -> FieldInfo | None:
    room: type[Options] | None = RunConfig
    field = None
    for part in key.split("."):
        field = room.model_fields.get(part) if room is not None else None
        room = _room_of(field) if field is not None else None
    return field


def _names_below(key: str) -> Iterator[str]:
    field = _field_of(key)
    room = _room_of(field) if field is not None else RunConfig
    yield from (room or RunConfig).model_fields
