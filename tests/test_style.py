"""The sizes and names that keep the house readable: thin fronts, short modules, functions that fit a screen."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
FRONTS = sorted([*CHECKOUT.glob("tools/*.py"), *CHECKOUT.glob("launch/*.py")])
BENCHES = sorted(CHECKOUT.glob("tools/bench/*.py"))
PACKAGE = sorted((CHECKOUT / "phi3v_dist").rglob("*.py"))
MOST_LINES_OF_FRONT = 79
MOST_LINES_OF_MODULE = 299
MOST_LINES_OF_FUNCTION = 40
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "misc"}


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Name and lines of every function, its docstring and decorators left out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = node.body[0] if ast.get_docstring(node) is not None else None
            docstring = 0 if text is None else text.end_lineno - text.lineno + 1
            yield node.name, node.end_lineno - node.lineno + 1 - docstring


def long_functions(files: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(CHECKOUT)} {name}: {lines}"
        for path in files
        for name, lines in functions(path.read_text(encoding="utf-8"))
        if lines > MOST_LINES_OF_FUNCTION
    ]


def test_fronts_are_thin() -> None:
    assert len(FRONTS) >= 9
    assert {path.name: lines_of(path) for path in FRONTS if lines_of(path) > MOST_LINES_OF_FRONT} == {}


def test_modules_are_short() -> None:
    long = {str(path.relative_to(CHECKOUT)): lines_of(path) for path in [*PACKAGE, *BENCHES]}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES_OF_MODULE} == {}


def test_functions_fit_a_screen() -> None:
    assert long_functions([*PACKAGE, *FRONTS, *BENCHES]) == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    parts = {part for path in PACKAGE for part in path.relative_to(CHECKOUT).with_suffix("").parts}
    assert parts & NAMES_THAT_SAY_NOTHING == set()


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f():\n    return 1\n", 2),
        ('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n', 2),
        ("class A:\n    async def f(\n        self,\n    ):\n        return 1\n", 4),
    ],
)
def test_docstrings_do_not_count_as_lines_of_a_function(source: str, lines: int) -> None:
    assert list(functions(source)) == [("f", lines)]
