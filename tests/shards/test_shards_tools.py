"""The two commands as a user meets them."""

import subprocess
import sys
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).parents[2]


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"tools/{tool}.py", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


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
