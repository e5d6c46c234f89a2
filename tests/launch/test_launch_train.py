"""launch/train.py as a user meets it: errors of one line, what it prints, and that nobody is left behind.

Few real launches; the many wrong starts are forks of one process that has imported torch (warm_starter.py).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from launching import LAUNCHERS_OWN, REPOSITORY, Rank, ranks_of_srun, run, with_deepspeed, with_torchrun

from phi3v_dist.config.loading import load_config

RECIPE = "launch/recipes/demo_cpu.yaml"
SHAPE = re.compile(r"ERROR [^:]+: .+\. \S.+")  # where: what (found value). mend
LONGEST_END_SECONDS = 60
QUICK = ("tracking.wandb=disabled", "evaluation.every_steps=0", "checkpoints.every_steps=1000", "training.steps=1000")

# name of a wrong start → its arguments ({work}: the folder of ``wrong``), and what its one line must contain
WRONG = {
    "no recipe named": ([], ["--config", RECIPE, "The demo"]),
    "recipe missing": (["--config", "{work}/none.yaml"], ["{work}/none.yaml", RECIPE]),
    "recipe below a file": (["--config", f"{RECIPE}/x.yaml"], [f"{RECIPE}/x.yaml", "no such recipe"]),
    "unknown key": (["training.stepss=3"], ["command line", "'training.stepss'", "Did you mean training.steps?"]),
    "unknown key in the recipe": (["--config", "{work}/odd.yaml"], ["odd.yaml line 3", "Did you mean training.seed?"]),
    "wrong type": (["training.steps=ten"], ["training.steps should be a valid integer", "'ten'", "Default: 0"]),
    "wrong choice": (["training.precision=fp16"], ["training.precision", "'bf16' or 'fp32'", "'fp16'"]),
    "no override": (["training.steps"], ["key=value", "'training.steps'"]),
    "nothing to train": (["training.steps=0", "training.epochs=0"], ["training.steps, training.epochs"]),
    "cuda on a cpu machine": (["training.device=cuda"], ["training.device", "'cuda'", "training.device=cpu"]),
    "no shards": (["shards.folder={work}/none"], ["{work}/none", "manifest.json", "tools/make_shards.py"]),
    "tar file deleted": (["shards.folder={work}/holed"], ["{work}/holed/train/train-000000.tar", "missing"]),
    "no model": (["model.folder={work}/none"], ["{work}/none", "config.json", "Phi-3-vision"]),
    "model of another kind": (["model.folder={work}/other"], ["{work}/other/config.json", "phi3_v", "'llama'"]),
    "no tokenizer": (["model.folder={work}/mute"], ["{work}/mute/tokenizer.json", "Copy tokenizer.json"]),
    "weights cut off": (["model.folder={work}/cut"], ["{work}/cut/model.safetensors", "damaged", "Copy the file"]),
    "pack shorter than a document": (
        ["packing.pack_tokens=64", "documents.num_crops=16"],
        ["packing.pack_tokens", "64", "packing.long_documents=drop"],
    ),
    "no DeepSpeed settings": (["training.deepspeed_config={work}/none.json"], ["training.deepspeed_config", "zero3"]),
    "DeepSpeed settings of another stage": (
        ["training.deepspeed_config={work}/stage2.json"],
        ["training.deepspeed_config", "ZeRO stage 2", "ds_configs/zero3.json"],
    ),
    "DeepSpeed settings are a list": (["training.deepspeed_config={work}/list.json"], ["training.deepspeed_config"]),
    "a file where the run goes": (["run_folder={work}/odd.yaml"], ["{work}/odd.yaml", "can't be made"]),
}


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("ERROR")]


@contextmanager
def marked() -> Iterator[tuple[dict[str, str], Callable[[], list[psutil.Process]]]]:
    """An environment to start commands with, and who lives of all that was started with it, orphans too."""
    mark = uuid.uuid4().hex

    def alive() -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _environment(process).get("STARTED_BY_TEST") == mark]

    try:
        yield os.environ | {"STARTED_BY_TEST": mark, "CUDA_VISIBLE_DEVICES": ""}, alive
    finally:
        for process in alive():
            process.kill()


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return {} if process.status() == psutil.STATUS_ZOMBIE else process.environ()
    except psutil.Error:
        return {}


def wait_until(fact: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (true := fact()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return true


@pytest.fixture(scope="module")
def wrong(small_demo, tmp_path_factory) -> Path:
    """A folder with damaged copies of what a run reads."""
    work = tmp_path_factory.mktemp("wrong")
    for name in ("other", "mute", "cut"):
        shutil.copytree(small_demo.folder / "base", work / name)
    (work / "other/config.json").write_text('{"model_type": "llama"}')
    (work / "mute/tokenizer.json").unlink()
    os.truncate(work / "cut/model.safetensors", 1000)
    shutil.copytree(small_demo.folder / "shards", work / "holed")
    (work / "holed/train/train-000000.tar").unlink()
    (work / "odd.yaml").write_text("training:\n  steps: 1\n  sed: 1\n")
    (work / "stage2.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    (work / "list.json").write_text("[]")
    return work


@pytest.fixture(scope="module")
def ended(warm, small_demo, wrong) -> SimpleNamespace:
    """How each wrong start ended, and who was alive after all of them."""
    results, left = {}, []
    for name, (words, _) in WRONG.items():
        given = [word.format(work=wrong) for word in words]
        whole = not words or "--config" in words
        start = given if whole else small_demo.recipe(wrong / f"run of {name}", *given)
        with warm.started("launch/train.py", [Rank(start)]) as started:
            (results[name],) = started.wait(120)
            left += [" ".join(process.cmdline()) for process in warm.alive()]
    return SimpleNamespace(results=results, left=left)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_start_is_one_line_and_code_2(ended, wrong, name):
    result = ended.results[name]
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert SHAPE.fullmatch(result.stderr.rstrip("\n"))
    assert [part for part in WRONG[name][1] if part.format(work=wrong) not in result.stderr] == []
    assert "Traceback" not in result.stdout
    assert not (wrong / f"run of {name}").exists()


def test_wrong_starts_leave_no_process(ended):
    assert ended.left == []


@pytest.mark.parametrize(
    ("told", "part"),
    [
        ({"RANK": "a", "WORLD_SIZE": "2"}, "environment variable RANK: not a whole number (found 'a')"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "contradict each other (found 'rank 2 of 2"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "x"}, "SLURM_NTASKS: not a whole number"),
    ],
)
def test_broken_launcher_environment_is_one_line_at_once(told, part):
    command = [sys.executable, "launch/train.py", "--config", RECIPE]
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHERS_OWN} | told
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=15, check=False
    )
    assert done.returncode == 2
    assert SHAPE.fullmatch(done.stderr.rstrip("\n")) and part in done.stderr, done.stderr


def launch(command: list[str], **told: str) -> SimpleNamespace:
    with marked() as (environment, alive):
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment | told, capture_output=True, text=True, timeout=240, check=False
        )
        wait_until(lambda: not alive(), 20)  # a process that was told to end takes a moment
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr, left=alive())


def test_deepspeed_with_two_ranks_shows_one_line_and_returns_2(small_demo, wrong):
    done = launch(with_deepspeed(*small_demo.recipe(wrong / "run", "training.stepss=3")))
    assert done.code == 2
    assert ["training.steps?" in line for line in error_lines(done.err + done.out)] == [True], done.err
    assert "Traceback" not in done.err + done.out
    assert done.left == []


def test_two_ranks_that_have_met_show_one_line_and_return_2(warm, small_demo, wrong):
    words = small_demo.recipe(wrong / "run", f"shards.folder={wrong}/none")
    with warm.started("launch/train.py", ranks_of_srun([words] * 2)) as started:
        ended = started.wait(120)
        assert warm.alive() == []
    told = ended[0].output + ended[1].output
    assert [rank.returncode for rank in ended] == [2, 2], told
    assert ["make_shards" in line for line in error_lines(told)] == [True], told
    assert "Traceback" not in told


def test_torchrun_with_two_ranks_shows_our_line_once(small_demo, wrong):
    done = launch(with_torchrun(*small_demo.recipe(wrong / "run", f"shards.folder={wrong}/none")))
    assert done.code != 0  # torchrun's own, whatever its children return
    assert ["make_shards" in line for line in error_lines(done.err + done.out)] == [True], done.err
    assert done.err.count("Traceback") <= 1  # torchrun's own, too
    assert done.left == []


def three_steps_are_done(run_folder: Path) -> bool:
    metrics = run_folder / "metrics.jsonl"
    return metrics.exists() and metrics.read_text().count("\n") >= 3


@pytest.mark.slurm
def test_killing_one_rank_ends_the_whole_run_under_deepspeed(small_demo, tmp_path):
    command = with_deepspeed(*small_demo.recipe(tmp_path / "train", *QUICK))
    with marked() as (environment, alive), open(tmp_path / "output", "w+") as output:
        launcher = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output)
        assert wait_until(lambda: three_steps_are_done(tmp_path / "train"), 200)
        processes = [process for process in alive() if "--local_rank=1" in process.cmdline()]
        min(processes, key=lambda process: process.create_time()).kill()
        killed = time.monotonic()
        assert launcher.wait(LONGEST_END_SECONDS) != 0
        # loader processes of a killed rank look for it every few seconds
        assert wait_until(lambda: not alive(), LONGEST_END_SECONDS - (time.monotonic() - killed))
        output.seek(0)
        (line,) = error_lines(output.read())
    assert "another rank is gone" in line


def test_killing_a_loader_of_one_rank_ends_the_whole_run(warm, small_demo, tmp_path):
    words = small_demo.recipe(tmp_path / "train", *QUICK)
    with warm.started("launch/train.py", ranks_of_srun([words] * 2)) as started:
        assert wait_until(lambda: three_steps_are_done(tmp_path / "train"), 200)
        psutil.Process(started.pids[1]).children()[0].kill()
        killed = time.monotonic()
        ended = started.wait(LONGEST_END_SECONDS)
        assert wait_until(lambda: not warm.alive(), LONGEST_END_SECONDS - (time.monotonic() - killed))
    told = ended[0].output + ended[1].output
    assert ended[1].returncode == 2 and ended[0].returncode != 0, told
    assert ["data rank 1" in line for line in error_lines(told)] == [True], told


WATCHED = """
import os, runpy, sys
sys.argv[0] = "launch/train.py"
seen, real_exit = [], os._exit
def watch(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.truncate"):
        seen.append((event, str(arguments[0])))
def end(code):
    print([code, seen, sorted({"torch", "transformers", "deepspeed"} & sys.modules.keys())], file=sys.stderr)
    real_exit(code)
os._exit = end
sys.addaudithook(watch)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> SimpleNamespace:
    """What --print-config says, and the file that it was written to."""
    overrides = [f"run_folder={tmp_path_factory.mktemp('printed')}/run", "training.learning_rate=3e-4"]
    # -B: Python's own cached bytecode is no writing of ours
    done = run([sys.executable, "-B", "-c", WATCHED, "--config", RECIPE, *overrides, "--print-config"])
    file = Path(tmp_path_factory.mktemp("again")) / "printed.yaml"
    file.write_text(done.stdout)
    return SimpleNamespace(done=done, file=file, loaded=load_config(RECIPE, overrides))


def test_print_config_writes_nothing_and_needs_no_torch(printed):
    assert printed.done.stderr == "[0, [], []]\n"


def test_printed_config_is_a_recipe_of_the_same_run(printed):
    assert load_config(printed.file).config == printed.loaded.config


def test_print_config_shows_each_option_once_with_its_origin(printed):
    recipe = (REPOSITORY / RECIPE).read_text().splitlines()
    told = [line.partition("#") for line in printed.done.stdout.splitlines()]
    options = [(text.split(":")[0].strip(), origin.strip()) for text, mark, origin in told if mark]
    assert len(options) == len(printed.loaded.origins)
    assert {origin for _, origin in options} >= {"default", "command line"}
    assert ("learning_rate", "command line") in options
    for name, origin in options:
        if origin.startswith(RECIPE):
            assert recipe[int(origin.rpartition(" ")[2]) - 1].strip().startswith(f"{name}:")
