"""What is true of the job scripts without a Slurm."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "slurm").glob("*.sh"))
JOBS = [script for script in SCRIPTS if script.name not in ("common.sh", "settings.sh")]
TRAINING = [script for script in JOBS if script.name.startswith("train_")]


def settings(script: Path) -> str:
    """Its #SBATCH lines."""
    return " ".join(line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line[:7] == "#SBATCH")


def test_scripts_are_short() -> None:
    assert len(SCRIPTS) == 8
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


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("GPUS_PER_NODE=eight", "GPUS_PER_NODE: must be a whole number, 0 for none (found 'eight')"),
        ("unset GPUS_PER_NODE", "GPUS_PER_NODE: not set"),
        ("CPUS_PER_TASK=0", "CPUS_PER_TASK: must be a whole number, or empty (found '0')"),
        (
            "MAX_ATTEMPTS_WITHOUT_PROGRESS=0",
            "MAX_ATTEMPTS_WITHOUT_PROGRESS: must be a whole number above 0",
        ),
        ("PREFLIGHT=true", "PREFLIGHT: must be yes or no (found 'true')"),
        ("MIN_NODE_BANDWIDTH_GBPS=", "MIN_NODE_BANDWIDTH_GBPS: must be a number (found '')"),
        ("unset CONTAINER", "CONTAINER: not set"),
        ("unset MODULES", "MODULES: not set"),
    ],
)
def test_a_wrong_setting_of_the_site_is_one_line(tmp_path: Path, line: str, told: str) -> None:
    done = load_site(tmp_path, line)
    assert done.returncode == 2
    assert done.stderr.startswith(f"ERROR {told}") and str(tmp_path / "site.env") in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_job_that_goes_on_keeps_what_it_was_submitted_with(tmp_path: Path) -> None:
    line = "export SBATCH_TIMELIMIT=12:00:00"
    done = load_site(tmp_path, line)
    assert done.returncode == 2 and "the job was submitted without what it says" in done.stderr
    assert load_site(tmp_path, line, SLURM_RESTART_COUNT="1").returncode == 0


def load_site(folder: Path, line: str, **environment: str) -> subprocess.CompletedProcess:
    """What a job script does first, with the site's settings and one more line."""
    python = f"PYTHON={sys.executable}"
    (folder / "site.env").write_text("\n".join([(REPOSITORY / "slurm/site.env").read_text(), python, line, ""]))
    given = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", "PHI3V_SITE_ENV": str(folder / "site.env")}
    return subprocess.run(
        ["bash", "-c", "source slurm/common.sh && load_site"],
        cwd=REPOSITORY, env=given | environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
