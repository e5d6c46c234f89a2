import os
import subprocess
import sys

from launching import REPOSITORY

RECIPE = ["--config", "launch/recipes/demo_cpu.yaml"]


def run_job(*words: str, **environment: str) -> subprocess.CompletedProcess:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    command = [sys.executable, *words]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=outside | {"PATH": "/nowhere"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_outside_of_a_job_one_line_says_so() -> None:
    done = run_job("launch/job.py", "begin", *RECIPE)
    assert done.returncode == 2
    assert done.stderr == "ERROR SLURM_JOB_ID: not inside a Slurm job. Submit a script of slurm/ with sbatch.\n"


def test_begin_tells_the_run_folder_and_end_knows_it_is_finished(tmp_path) -> None:
    folder = tmp_path / "train"
    run = (f"run_folder={folder}",)
    done = run_job(
        "launch/job.py", "begin", "--tell-run-folder", str(tmp_path / "told"), *RECIPE, *run, SLURM_JOB_ID="7"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "told").read_text() == str(folder)
    (folder / "FINISHED").write_text("{}")
    assert run_job("launch/job.py", "end", *RECIPE, *run, SLURM_JOB_ID="7").returncode == 0
    done = run_job("launch/job.py", "begin", *RECIPE, *run, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")
    assert done.returncode == 3


def test_the_batch_script_does_not_wait_for_torch() -> None:
    program = "import runpy, sys; runpy.run_path('launch/job.py'); assert 'torch' not in sys.modules"
    assert run_job("-c", program).returncode == 0
