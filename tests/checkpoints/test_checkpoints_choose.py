"""A folder is a checkpoint if and only if its marker says so. Markers are written by hand here, as choose.py draws."""

import hashlib
import json
from pathlib import Path

import pytest

from phi3v_dist.checkpoints.choose import (
    Checkpoint,
    Damage,
    complete_checkpoints,
    in_order_of_choice,
    newest_checkpoint,
    outdated,
    read_marker,
    survey,
)
from phi3v_dist.errors import CheckpointError


def write_checkpoint(run_folder: Path, step: int, name: str | None = None, loss: float | None = None) -> Path:
    folder = run_folder / "checkpoints" / (name or f"step-{step}")
    (folder / "engine").mkdir(parents=True)
    files = {}
    for file, content in {"engine/rank_0.pt": b"0" * 10, "engine/rank_1.pt": b"1" * 20}.items():
        (folder / file).write_bytes(content)
        files[file] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    told = {"step": step, "num_ranks": 2, "trained_on": {}, "longest_document": 700, "seconds": 1.5, "files": files}
    (folder / "COMPLETE.json").write_text(json.dumps(told | {"validation_loss": loss}))
    return folder


def reason(folder: Path) -> str:
    found = read_marker(folder)
    assert isinstance(found, Damage)
    assert found.folder == folder
    return found.reason


def test_a_whole_folder_is_a_checkpoint_and_tells_what_its_marker_says(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 200)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.folder, checkpoint.step, checkpoint.num_ranks, checkpoint.trained_on) == (folder, 200, 2, {})
    assert (checkpoint.seconds, checkpoint.validation_loss, checkpoint.written_bytes) == (1.5, None, 30)


def test_without_a_marker_it_is_none(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 200)
    (folder / "COMPLETE.json").unlink()
    assert newest_checkpoint(tmp_path) is None
    assert reason(folder) == "COMPLETE.json is missing"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 200)
    (folder / "engine" / "rank_1.pt").unlink()
    assert reason(folder) == "engine/rank_1.pt is missing"


@pytest.mark.parametrize("content", [b"", b"1" * 19, b"1" * 21])
def test_a_file_of_another_size_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_checkpoint(tmp_path, 200)
    (folder / "engine" / "rank_1.pt").write_bytes(content)
    assert reason(folder) == f"engine/rank_1.pt has {len(content)} bytes, 20 were written"


@pytest.mark.parametrize(
    "marker",
    [
        b"",
        b'{"step": 200, "num_ra',
        b"\xff\xfe",
        b"[]",
        b"7",
        b"{}",
        b'{"step": 1, "num_ranks": 1, "trained_on": {}, "files": 3}',
        b'{"step": 1, "num_ranks": 1, "trained_on": {}, "files": ["engine/rank_0.pt"]}',
        b'{"step": 1, "num_ranks": 1, "files": {}}',
        b'{"step": 1, "num_ranks": 1, "trained_on": {}, "longest_document": 7, "seconds": 1, '
        b'"validation_loss": null, "files": {"engine/rank_0.pt": 10}}',
    ],
)
def test_a_marker_that_is_torn_or_of_another_shape_makes_no_checkpoint(tmp_path: Path, marker: bytes) -> None:
    folder = write_checkpoint(tmp_path, 200)
    (folder / "COMPLETE.json").write_bytes(marker)
    assert "its marker COMPLETE.json can't be read" in reason(folder)
    assert newest_checkpoint(tmp_path) is None


def test_files_that_the_marker_does_not_know_do_no_harm(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, 200) / "notes.txt").write_text("ours")
    assert newest_checkpoint(tmp_path) is not None


def test_order_is_by_step_not_by_name(tmp_path: Path) -> None:
    for step in (1000, 200, 900):
        write_checkpoint(tmp_path, step)
    assert [checkpoint.step for checkpoint in complete_checkpoints(tmp_path)] == [200, 900, 1000]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 1000


def test_a_damaged_newest_one_gives_way_to_the_one_before(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 200)
    (write_checkpoint(tmp_path, 400) / "engine" / "rank_0.pt").unlink()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 200
    assert [isinstance(found, Checkpoint) for found in survey(tmp_path)] == [True, False]


def test_a_save_that_was_cut_off_is_none_even_with_a_marker(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 400, name=".step-400.partial")
    assert complete_checkpoints(tmp_path) == []


def test_a_file_called_like_a_checkpoint_is_none(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 200)
    (tmp_path / "checkpoints" / "step-400").write_text("")
    assert [checkpoint.step for checkpoint in complete_checkpoints(tmp_path)] == [200]


def test_a_run_folder_without_checkpoints_or_none_at_all_has_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "not there") is None


@pytest.mark.parametrize("name", ["step-400.damaged", ".step-400.universal", ".step-400.old.partial", "step-40-copy"])
def test_what_was_put_aside_or_is_a_users_own_copy_is_none(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path, 400, name=name)
    assert survey(tmp_path) == []


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "stay"),
    [
        (1, 0, [500]),
        (2, 0, [400, 500]),
        (9, 9, [100, 200, 300, 400, 500]),
        (1, 1, [200, 500]),
        (1, 2, [200, 300, 500]),
        (1, 3, [200, 300, 500]),  # the third best is the last one itself
        (3, 1, [200, 300, 400, 500]),
    ],
)
def test_last_and_best_stay(tmp_path: Path, keep_last: int, keep_best: int, stay: list[int]) -> None:
    losses = {100: 3.0, 200: 1.0, 300: 2.0, 400: None, 500: 2.5}
    for step, loss in losses.items():
        write_checkpoint(tmp_path, step, loss=loss)
    every = complete_checkpoints(tmp_path)
    gone = [checkpoint.step for checkpoint in outdated(every, keep_last, keep_best)]
    assert sorted(losses.keys() - gone) == stay


def test_of_equally_good_ones_the_newer_stays_and_a_loss_that_is_no_number_is_none(tmp_path: Path) -> None:
    for step, loss in {100: 1.0, 200: 1.0, 300: float("nan"), 400: None, 500: 4.0}.items():
        write_checkpoint(tmp_path, step, loss=loss)
    assert [checkpoint.step for checkpoint in outdated(complete_checkpoints(tmp_path), 1, 1)] == [100, 300, 400]


def test_a_damaged_one_never_takes_the_place_of_a_good_one(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        write_checkpoint(tmp_path, step, loss=float(step))
    (tmp_path / "checkpoints/step-200/engine/rank_0.pt").unlink()
    assert outdated(complete_checkpoints(tmp_path), 2, 0) == []


@pytest.mark.parametrize(("wanted", "order"), [("newest", [300, 200, 100]), ("best", [200, 100]), ("100", [100])])
def test_order_of_choice(tmp_path: Path, wanted: str, order: list[int]) -> None:
    for step, loss in {100: 2.0, 200: 1.0, 300: None}.items():
        write_checkpoint(tmp_path, step, loss=loss)
    assert [found.folder.name for found in in_order_of_choice(tmp_path, wanted)] == [f"step-{step}" for step in order]


@pytest.mark.parametrize("wanted", ["best", "400", "-1", "latest"])
def test_what_is_not_there_is_one_line_with_what_is(tmp_path: Path, wanted: str) -> None:
    write_checkpoint(tmp_path, 100)
    with pytest.raises(CheckpointError, match=f"no checkpoint is its {wanted} .found 'step-100'"):
        in_order_of_choice(tmp_path, wanted)
