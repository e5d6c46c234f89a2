"""The floors of DESIGN.md, held by reading every import (inside functions too) and by importing the light modules.

``errors.py`` is the ground that the other files of floor 0 stand on; ``phi3v_dist/__init__.py`` is exempt, because its
``register()`` hands rooms of floor 4 to transformers.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
FLOORS = {
    "errors": -1,
    **dict.fromkeys(("files", "mapped_arrays", "images", "console", "costs"), 0),
    "config": 1,
    "catalog": 2,
    "shards": 3,
    **dict.fromkeys(("documents", "model", "cluster"), 4),
    **dict.fromkeys(("packing", "tracking", "checkpoints"), 5),
    **dict.fromkeys(("evaluation", "sizing"), 6),
    **dict.fromkeys(("training", "reports"), 7),
}
LIGHT = ("shards.index", "shards.read", "packing.plan")  # beside all of floors 0 to 2
ENVIRONMENT = ("environ", "environb", "getenv", "getenvb")
WRITES = ("setdefault", "update", "pop", "clear")


def modules(package: Path) -> Iterator[tuple[str, Path]]:
    """Dotted name below the package, and file, of every module but the package's own ``__init__``."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            yield name, path


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported; ``package``: parts of the package the module lies in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and re.search(r"(import_module|__import__)$", ast.unparse(node.func)):
            texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from ((node.lineno, text) for text in texts if isinstance(text, str))


def forbidden_imports(package: Path) -> list[str]:
    """``file:line room -> room`` of every import upward or sideways."""
    found = []
    for name, path in modules(package):
        room = name.split(".")[0]
        inside = ("phi3v_dist", *path.relative_to(package).parent.parts)
        for line, target in imports(ast.parse(path.read_text(encoding="utf-8")), inside):
            parts = target.split(".")
            if parts[0] != "phi3v_dist" or len(parts) == 1 or parts[1] == room or parts[1].startswith("__"):
                continue
            if parts[1] not in FLOORS or FLOORS[parts[1]] >= FLOORS[room]:
                found.append(f"{path.relative_to(package)}:{line} {room} -> {parts[1]}")
    return found


def environment_reads(folder: Path) -> list[str]:
    """``file:line`` of every read of an environment variable. Setting one for a library or a child is no read."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        above = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            named = isinstance(node, ast.ImportFrom) and node.module == "os" and {n.name for n in node.names}
            reached = isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT and ast.unparse(node.value) == "os"
            written = (isinstance(above.get(node), ast.Subscript) and not isinstance(above[node].ctx, ast.Load)) or (
                isinstance(above.get(node), ast.Attribute) and above[node].attr in WRITES
            )
            if (named and named & set(ENVIRONMENT)) or (reached and not written):
                found.append(f"{path.relative_to(folder)}:{node.lineno}")
    return found


def test_every_room_has_its_floor() -> None:
    assert {name.split(".")[0] for name, _ in modules(CHECKOUT / "phi3v_dist")} <= FLOORS.keys()


def test_no_import_goes_up_or_sideways() -> None:
    assert forbidden_imports(CHECKOUT / "phi3v_dist") == []


@pytest.mark.parametrize("folder", ["phi3v_dist", "launch", "tools"])
def test_only_cluster_reads_the_environment(folder: str) -> None:
    assert [place for place in environment_reads(CHECKOUT / folder) if not place.startswith("cluster/")] == []


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("catalog/checks.py", "from phi3v_dist.training import loop", "catalog -> training"),
        ("catalog/checks.py", "def late():\n    import phi3v_dist.shards.index", "catalog -> shards"),
        ("tracking/planted.py", "from phi3v_dist import checkpoints", "tracking -> checkpoints"),
        ("tracking/planted.py", "from ..packing.plan import plan", "tracking -> packing"),
        ("packing/__init__.py", "from ..tracking import metrics", "packing -> tracking"),
        ("model/planted.py", "def late():\n    from .. import documents", "model -> documents"),
        ("files.py", "from . import images", "files -> images"),
        (
            "config/options.py",
            "from importlib import import_module\nimport_module('phi3v_dist.model')",
            "config -> model",
        ),
        ("shards/read.py", "from phi3v_dist.nowhere import thing", "shards -> nowhere"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, file: str, line: str, fault: str) -> None:
    package = tmp_path / "phi3v_dist"
    shutil.copytree(CHECKOUT / "phi3v_dist", package, ignore=shutil.ignore_patterns("__pycache__"))
    before = forbidden_imports(package)
    with open(package / file, "a", encoding="utf-8") as handle:
        handle.write(f"\n{line}\n")
    new = [found for found in forbidden_imports(package) if found not in before]
    assert len(new) == 1
    assert new[0].startswith(f"{file}:")
    assert new[0].endswith(fault)


@pytest.mark.parametrize(
    ("line", "reads"),
    [
        ("import os\nrank = os.environ['RANK']", True),
        ("import os\nrank = os.environ.get('RANK')", True),
        ("import os\nrank = os.getenv('RANK')", True),
        ("from os import environ", True),
        ("import os\nrun(env={**os.environ})", True),
        ("import os\nos.environ['X'] = '1'\ndel os.environ['X']\nos.environ.setdefault('X', '1')", False),
        ("import os\nos.path.join('a', 'b')", False),
    ],
)
def test_a_planted_read_of_the_environment_is_found(tmp_path: Path, line: str, reads: bool) -> None:
    (tmp_path / "planted.py").write_text(line)
    assert bool(environment_reads(tmp_path)) == reads


def test_light_modules_never_import_torch() -> None:
    light = [
        f"phi3v_dist.{name}"
        for name, _ in modules(CHECKOUT / "phi3v_dist")
        if FLOORS[name.split(".")[0]] <= 2 or name in LIGHT
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name + ' imports torch'\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
