"""What is true of the job scripts without a Slurm."""

import shutil
import subprocess
from pathlib import Path

import pytest
from launching import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "slurm").glob("*.sh"))
JOBS = [script for script in SCRIPTS if script.name != "common.sh"]
TRAINING = [script for script in JOBS if script.name.startswith("train_")]


def settings(script: Path) -> str:
    """Its #SBATCH lines."""
    return " ".join(line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line[:7] == "#SBATCH")


def test_scripts_are_short() -> None:
    assert len(SCRIPTS) == 7
    assert {script.name for script in SCRIPTS if len(script.read_text().splitlines()) >= 150} == set()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    words = ["shellcheck", "-x", *map(str, SCRIPTS), "slurm/site.env"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.parametrize("script", JOBS, ids=lambda script: script.name)
def test_nothing_of_a_site_stands_in_a_script(script: Path) -> None:
    for word in ("--account", "--partition", "--qos", "--gpus", "--gres", "--time"):
        assert word not in settings(script)


@pytest.mark.parametrize("script", TRAINING, ids=lambda script: script.name)
def test_a_training_job_can_be_requeued_is_warned_and_keeps_its_log(script: Path) -> None:
    assert "--requeue --open-mode=append" in settings(script)
    assert "--signal=B:USR1@300" in settings(script)
    assert f"--nodes={script.name.removeprefix('train_').removesuffix('node.sh')} --exclusive" in settings(script)


@pytest.mark.parametrize("script", JOBS, ids=lambda script: script.name)
def test_outside_of_a_job_a_script_says_how_it_is_started(script: Path) -> None:
    words = ["env", "-u", "SLURM_JOB_ID", "bash", f"slurm/{script.name}"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"ERROR slurm/{script.name}: this is a job script (found no Slurm job).")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", JOBS, ids=lambda script: script.name)
def test_the_example_in_a_script_names_it(script: Path) -> None:
    assert any(
        line.startswith("#   sbatch") and f"slurm/{script.name}" in line for line in script.read_text().splitlines()
    )
