"""What W&B's own run file holds after a tracked run, read back from disk."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from wandb_file import history, read_records

from phi3v_dist.config.options import TrackingOptions
from phi3v_dist.tracking.predictions import ShownPrediction
from phi3v_dist.tracking.tracker import start_tracking

STEP_2 = {
    "loss": 1.5,
    "learning_rate": 2e-3,
    "gradient_norm": 0.75,
    "tokens_per_second": 1234.5,
    "validation_loss": 1.75,
    "price_error_mean": 0.3,
    "price_error_median": 0.2,
}
TRUTH, ANSWER = "Red Scarf | scarf | 120", "Product: Red Scarf, Category: scarf, Full Price: 118"


def _png(colour):
    content = io.BytesIO()
    Image.new("RGB", (700, 400), colour).save(content, "PNG")
    return content.getvalue()


def _track(run_folder, first_step, last_step):
    tracker = start_tracking(
        TrackingOptions(project="shop"),
        run_folder,
        {"training": {"seed": 7}},
        total_steps=5,
        first_step=first_step,
        is_rank_0=True,
    )
    for step in range(first_step, last_step + 1):
        tracker.log_step(step, STEP_2 if step == 2 else {"loss": 3.0 / step})
        if step == 2:
            shown = [ShownPrediction(_png(colour), TRUTH, ANSWER, {"sample": 9}) for colour in ("red", "blue")]
            tracker.log_predictions(step, shown)
    tracker.close()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    for first_step, last_step in [(1, 3), (3, 5)]:
        # As in real life: a run that goes on is another process, with a W&B service and folders of its own.
        with pytest.MonkeyPatch.context() as outside:
            outside.delenv("WANDB_SERVICE", raising=False)
            outside.delenv("WANDB_DATA_DIR", raising=False)
            process = multiprocessing.get_context("spawn").Process(target=_track, args=(folder, first_step, last_step))
            process.start()
            process.join()
            time.sleep(1.1)  # W&B names an offline run's folder by the second
        assert process.exitcode == 0
    return folder


@pytest.fixture(scope="module")
def records(run_folder):
    first, second = sorted(run_folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return read_records(first), read_records(second)


def _of_kind(records, kind):
    return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]


def test_every_value_of_a_step_is_in_the_run_file(records):
    logged = history(records[0])
    assert sorted(logged) == [1, 2, 3]
    assert {name: logged[2][name] for name in STEP_2} == STEP_2
    assert logged[3]["loss"] == 1.0


def test_a_resumed_run_keeps_its_id_project_name_and_config(records, run_folder):
    run_id = (run_folder / "wandb-run-id").read_text().strip()
    for part in records:
        run = _of_kind(part, "run")[0]
        assert (run.run_id, run.project, run.display_name) == (run_id, "shop", "first")
        config = {update.key: update.value_json for update in run.config.update}
        assert json.loads(config["training"]) == {"seed": 7}
    assert sorted(history(records[1])) == [3, 4, 5]


def test_the_table_holds_pictures_truths_and_answers_on_disk(records, run_folder):
    artifact = _of_kind(records[0], "artifact")[0]
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    assert all(run_folder.absolute() in path.parents for path in files.values())
    table = json.loads(files["predictions.table.json"].read_text())
    assert table["columns"] == ["picture", "truth", "prediction"]
    assert [row[1:] for row in table["data"]] == [[TRUTH, ANSWER]] * 2
    for (picture, _, _), colour in zip(table["data"], [(254, 0, 0), (0, 0, 254)], strict=True):
        with Image.open(files[picture["path"]]) as image:
            assert image.size == (336, 192)
            assert image.convert("RGB").getpixel((100, 100)) == colour
    assert history(records[0])[2]["predictions._type"] == "table-file"


def test_predictions_are_also_lines_in_the_run_folder(run_folder):
    lines = (run_folder / "predictions/step-2.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"truth": TRUTH, "answer": ANSWER, "sample": 9}] * 2


def test_the_run_folder_has_each_step_once(run_folder):
    steps = [json.loads(line)["step"] for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]


KILLED_RUN = """
import pathlib, sys, time
from phi3v_dist.tracking.wandb_backend import WandbBackend
backend = WandbBackend("offline", pathlib.Path(sys.argv[1]), "shop", "killed", {})
for step in range(1, 21):
    backend.log_step(step, {"loss": 1 / step})
print("logged", flush=True)
time.sleep(600)
"""


def test_steps_are_on_disk_soon_and_outlive_a_kill(tmp_path):
    command = [sys.executable, "-c", KILLED_RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "logged\n"
        (run_file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
        # Each second, as we ask of W&B; by itself it would hold them back for 15 s.
        latest = time.monotonic() + 10
        while max(history(read_records(run_file)), default=0) < 19 and time.monotonic() < latest:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert max(history(read_records(run_file))) == 19  # W&B keeps step 20 open until step 21 comes


UNREACHABLE = """
import os, pathlib, signal, sys, time
import psutil
from phi3v_dist.config.options import TrackingOptions
from phi3v_dist.tracking import wandb_backend
from phi3v_dist.tracking.tracker import start_tracking
wandb_backend._LONGEST_ANSWER_SECONDS = 3.0
started = time.monotonic()
options, folder = TrackingOptions(wandb=sys.argv[1]), pathlib.Path(sys.argv[2])
tracker = start_tracking(options, folder, {}, total_steps=9, first_step=1, is_rank_0=True)
tracker.log_step(1, {"loss": 1.0})
time.sleep(1.5)  # its file is flushed each second
if sys.argv[3] == "frozen":
    service = [child for child in psutil.Process().children(recursive=True) if "wandb" in child.name()]
    assert service, "W&B has another service now"
    for process in service:
        process.suspend()
tracker.log_step(2, {"loss": 0.5})
tracker.close()
print(f"ended after {time.monotonic() - started:.1f} s", flush=True)
for process in service if sys.argv[3] == "frozen" else []:
    process.kill()
os._exit(0)
"""


def _without_wandb(mode, folder, state):
    # nobody listens on port 9 of this machine
    told = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    return subprocess.run(
        [sys.executable, "-c", UNREACHABLE, mode, str(folder), state],
        # without it a service of its own: the one of the test process is named there
        env={name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"} | told,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_a_server_out_of_reach_leaves_offline_files_and_one_warning(tmp_path):
    done = _without_wandb("online", tmp_path, "alive")
    assert done.stderr.count("Weights & Biases") == 1
    assert "`wandb sync`" in done.stderr
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert [row["loss"] for row in history(read_records(file)).values()] == [1.0, 0.5]


def test_a_frozen_service_does_not_hold_up_the_end(tmp_path):
    done = _without_wandb("offline", tmp_path, "frozen")
    assert "WandbBackend failed in close" in done.stderr
    assert float(done.stdout.split("ended after ")[1].split()[0]) < 30
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
