"""YAML as version 1.2 reads it, with the line of each key; and values written so that any reader gets them back.

Enters: text. Leaves: plain dictionaries and scalars. PyYAML alone follows YAML 1.1: there ``1e-5`` is a string, ``no``
is false and ``010`` is 8. Keys that stand twice are an error instead of a silent overwrite.
"""

import math
import re
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")


class RecipeLoader(yaml.SafeLoader):
    """Scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own way of a class-wide table

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Leading zeros don't change the base."""
        text = node.value
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """A float, also without a point."""
        return float(node.value.replace(".inf", "inf").replace(".Inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.nan",
        list("-+.0123456789"),
    ),
):
    RecipeLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
RecipeLoader.add_constructor("tag:yaml.org,2002:int", RecipeLoader.construct_yaml_int)
RecipeLoader.add_constructor("tag:yaml.org,2002:float", RecipeLoader.construct_yaml_float)


def parse_value(text: str) -> Any:
    """The value of one YAML text. Raises ``yaml.YAMLError``."""
    return yaml.load(text, RecipeLoader)


def parse_mapping(text: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a mapping of mappings. Returns it and dotted key → line (from 1).

    Raises ``yaml.YAMLError``, and ``ValueError`` with a text for the user: no mapping, or a key that stands twice.
    """
    loader = RecipeLoader(text)
    try:
        node = loader.get_single_node()
        lines: dict[str, int] = {}
        if node is None:
            return {}, lines
        if not isinstance(node, yaml.MappingNode):
            raise ValueError("isn't a mapping of keys to values")
        return _mapping(loader, node, "", lines), lines
    finally:
        loader.dispose()


def _mapping(loader: RecipeLoader, node: yaml.MappingNode, above: str, lines: dict[str, int]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        name = str(key_node.value)
        key = f"{above}{name}"
        if name in values:
            raise ValueError(f"the key {key} stands twice, in lines {lines[key]} and {key_node.start_mark.line + 1}")
        lines[key] = key_node.start_mark.line + 1
        if isinstance(value_node, yaml.MappingNode):
            values[name] = _mapping(loader, value_node, f"{key}.", lines)
        else:
            values[name] = loader.construct_object(value_node, deep=True)
    return values


def value_text(value: Any) -> str:
    """A value on one line, as YAML that versions 1.1 and 1.2 read alike."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{value_text(key)}: {value_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if not isinstance(value, str):
        return yaml.safe_dump(value).splitlines()[0]
    plain = _PLAIN.fullmatch(value) and yaml.safe_load(value) == value == parse_value(value)
    return value if plain else yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf).rstrip("\n")
