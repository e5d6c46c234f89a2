"""Content against the hashes of the marker. Damages of real checkpoints: tests/training/test_training_world_size.py."""

from pathlib import Path

import pytest
from test_checkpoints_choose import write_checkpoint

from phi3v_dist.checkpoints.choose import Checkpoint, Damage, read_marker, survey
from phi3v_dist.checkpoints.verify import first_whole, verify
from phi3v_dist.errors import CheckpointError


def whole(run_folder: Path, step: int) -> Checkpoint:
    found = read_marker(write_checkpoint(run_folder, step))
    assert isinstance(found, Checkpoint)
    return found


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_what_was_written_passes(tmp_path: Path) -> None:
    verify(whole(tmp_path, 200))


def test_a_flipped_bit_is_found_where_sizes_tell_nothing(tmp_path: Path) -> None:
    checkpoint = whole(tmp_path, 200)
    flip_a_bit(checkpoint.folder / "engine/rank_1.pt")
    assert read_marker(checkpoint.folder) == checkpoint
    with pytest.raises(CheckpointError, match=r"engine/rank_1\.pt has another content than was written"):
        verify(checkpoint)


def test_a_file_that_vanishes_while_it_is_read_is_no_traceback(tmp_path: Path) -> None:
    checkpoint = whole(tmp_path, 200)
    (checkpoint.folder / "engine/rank_0.pt").unlink()
    with pytest.raises(CheckpointError, match=r"rank_0\.pt can't be read: No such file"):
        verify(checkpoint)


@pytest.mark.parametrize("shares", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["engine/rank_0.pt", "engine/rank_1.pt"])
def test_shares_together_read_every_file_once(tmp_path: Path, shares: int, name: str) -> None:
    checkpoint = whole(tmp_path, 200)
    flip_a_bit(checkpoint.folder / name)
    finders = 0
    for share in range(shares):
        try:
            verify(checkpoint, share, shares)
        except CheckpointError:
            finders += 1
    assert finders == 1


def test_first_whole_one_is_taken_and_the_reasons_against_the_others_are_told(tmp_path: Path) -> None:
    for step in (200, 400, 600, 800):
        whole(tmp_path, step)
    (tmp_path / "checkpoints/step-800/COMPLETE.json").unlink()
    flip_a_bit(tmp_path / "checkpoints/step-600/engine/rank_0.pt")
    taken, passed = first_whole(survey(tmp_path)[::-1], verify)
    assert taken is not None and taken.step == 400
    assert [(damage.folder.name, damage.reason[:30]) for damage in passed] == [
        ("step-800", "COMPLETE.json is missing"),
        ("step-600", "engine/rank_0.pt has another c"),
    ]


def test_without_a_whole_one_none_is_taken(tmp_path: Path) -> None:
    assert first_whole([], verify) == (None, [])
    damage = Damage(tmp_path, "gone")
    assert first_whole([damage], verify) == (None, [damage])
