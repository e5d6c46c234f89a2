"""The two commands as a user meets them."""

import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]


def run(tool: str, *arguments: str, largest_file: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
    """``largest_file``: bytes that a file may have before writing to it fails, as it does on a full disk."""
    command = [sys.executable, f"tools/{tool}.py", *arguments]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, preexec_fn=limit)


def test_wrong_recipe_is_one_line_and_code_2(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"catalog: {{table: {tmp_path}/none.csv}}\nshards: {{folder: {tmp_path}/shards}}\n")
    ended = run("make_shards", "--config", str(recipe))
    assert ended.returncode == 2
    assert ended.stderr.startswith("ERROR ") and len(ended.stderr.splitlines()) == 1
    assert "none.csv" in ended.stderr and "Traceback" not in ended.stdout


def test_too_many_rejects_end_with_code_3_after_writing_everything(catalog, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    parts = {
        "catalog": catalog.model_dump() | {"max_reject_share": 0.1},
        "shards": {"folder": str(tmp_path / "shards"), "samples_per_shard": 5},
    }
    recipe.write_text(yaml.safe_dump(parts))
    ended = run("make_shards", "--config", str(recipe), "shards.workers=1")
    assert ended.returncode == 3, ended.stderr
    assert "max_reject_share" in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert (tmp_path / "shards/manifest.json").exists() and "rejected" in ended.stdout

    shown = run("inspect_shards", str(tmp_path / "shards"), "--verify")
    assert shown.returncode == 0, shown.stderr
    assert "Belts" in shown.stdout

    tar = tmp_path / "shards/train/train-000000.tar"
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    shown = run("inspect_shards", str(tmp_path / "shards"), "--verify")
    assert shown.returncode == 2
    assert "train/train-000000.tar, byte 512, key " in shown.stderr and "Traceback" not in shown.stderr


@pytest.mark.parametrize("largest_file", [100, 5_000, 20_000])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(catalog, tmp_path, largest_file):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"catalog": catalog.model_dump(), "shards": {"folder": str(tmp_path / "shards")}}))
    ended = run("make_shards", "--config", str(recipe), "shards.workers=1", largest_file=largest_file)
    assert ended.returncode == 2
    assert ended.stderr.startswith("ERROR ") and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "File too large" in ended.stderr and not (tmp_path / "shards").exists()
    assert run("make_shards", "--config", str(recipe), "shards.workers=1").returncode == 0
    assert (tmp_path / "shards/manifest.json").exists()
