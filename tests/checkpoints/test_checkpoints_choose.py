"""A folder is a checkpoint if and only if its marker says so. Markers are written by hand here, as choose.py draws."""

import json
import logging
from pathlib import Path

import pytest

from phi3v_dist.checkpoints.choose import complete_checkpoints, newest_checkpoint, read_marker


def write_checkpoint(run_folder: Path, step: int, name: str | None = None) -> Path:
    folder = run_folder / "checkpoints" / (name or f"step-{step}")
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "rank_0.pt").write_bytes(b"0" * 10)
    (folder / "engine" / "rank_1.pt").write_bytes(b"1" * 20)
    told = {"step": step, "num_ranks": 2, "trained_on": {}, "files": {"engine/rank_0.pt": 10, "engine/rank_1.pt": 20}}
    (folder / "COMPLETE.json").write_text(json.dumps(told))
    return folder


def test_a_whole_folder_is_a_checkpoint_and_tells_what_its_marker_says(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 200)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.folder, checkpoint.step, checkpoint.num_ranks, checkpoint.trained_on) == (folder, 200, 2, {})


def test_without_a_marker_it_is_none_and_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (write_checkpoint(tmp_path, 200) / "COMPLETE.json").unlink()
    assert newest_checkpoint(tmp_path) is None
    assert caplog.records == []


def test_a_missing_file_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_checkpoint(tmp_path, 200)
    (folder / "engine" / "rank_1.pt").unlink()
    with caplog.at_level(logging.WARNING, logger="phi3v_dist"):
        assert read_marker(folder) is None
    assert "rank_1.pt is missing" in caplog.text


@pytest.mark.parametrize("content", [b"", b"1" * 19, b"1" * 21])
def test_a_file_of_another_size_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    folder = write_checkpoint(tmp_path, 200)
    (folder / "engine" / "rank_1.pt").write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="phi3v_dist"):
        assert read_marker(folder) is None
    assert "engine/rank_1.pt has another size" in caplog.text


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
    ],
)
def test_a_marker_that_is_torn_or_of_another_shape_makes_no_checkpoint(tmp_path: Path, marker: bytes) -> None:
    folder = write_checkpoint(tmp_path, 200)
    (folder / "COMPLETE.json").write_bytes(marker)
    assert read_marker(folder) is None


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
