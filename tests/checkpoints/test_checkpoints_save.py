"""Saves of a real engine on two ranks, on a small disk of their own (saving_worker.py): one launch for all facts."""

import hashlib

import pytest

from phi3v_dist.checkpoints.choose import Checkpoint, complete_checkpoints, read_marker


@pytest.mark.parametrize("engine", ["bf16", "fp32"])
def test_predicted_bytes_are_those_written_within_two_percent(saved, engine):
    predicted = sum(rank[engine][0] for rank in saved.ranks)
    written = saved.told[engine][1]["bytes"]
    assert written <= predicted <= 1.02 * written


def test_marker_holds_bytes_and_hash_of_every_file_as_it_lies_on_the_disk(saved):
    for checkpoint in complete_checkpoints(saved.run):
        there = {str(path.relative_to(checkpoint.folder)) for path in checkpoint.folder.rglob("*") if path.is_file()}
        assert there == {"COMPLETE.json", *checkpoint.files}
        assert len([name for name in checkpoint.files if name.startswith("engine/")]) == 4
        for name, file in checkpoint.files.items():
            content = (checkpoint.folder / name).read_bytes()
            assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert checkpoint.num_ranks == 2 and checkpoint.seconds > 0


def test_last_two_and_the_best_are_kept(saved):
    """Validation losses of the steps 1 to 5: 3.0, 1.0, 2.0, none, 2.5."""
    steps = [[int(name.removeprefix("step-")) for name in there] for there in saved.told["kept"]]
    assert steps == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5]]
    best = read_marker(saved.run / "checkpoints/step-2")
    assert isinstance(best, Checkpoint) and best.validation_loss == 1.0


def test_a_rank_that_cannot_write_ends_the_save_on_all_ranks_with_one_line_that_names_it(saved):
    errors = [rank["failing"]["failed"] for rank in saved.ranks]
    assert errors[0] == errors[1]
    assert "rank 1 can't write a checkpoint: File too large." in errors[0]["error"]
    assert "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt" in errors[0]["error"] and errors[0]["alike"]
    assert saved.told["failing"]["left"] == [".step-6.partial", "step-2", "step-4", "step-5"]


def test_a_disk_that_was_away_for_a_moment_asks_for_another_attempt_on_all_ranks(saved):
    errors = [rank["failing"]["stale"] for rank in saved.ranks]
    assert errors[0] == errors[1]
    assert "rank 1 can't write a checkpoint: Stale file handle." in errors[0]["error"]
    assert (errors[0]["code"], errors[0]["alike"]) == (70, True)
    assert [rank["failing"]["failed"]["code"] for rank in saved.ranks] == [2, 2]


def test_the_next_save_clears_away_what_the_failed_one_left(saved):
    assert "bytes" in saved.told["failing"]["again"]
    assert saved.told["failing"]["then"] == ["step-2", "step-5", "step-6"]


def test_a_disk_without_room_is_refused_before_anything_is_written_or_deleted(saved):
    errors = [rank["full"]["refused"]["error"] for rank in saved.ranks]
    assert errors[0] == errors[1]
    assert "needs 0.010 GB and this disk has 0.009 GB free" in errors[0] and "/run/checkpoints: " in errors[0]
    assert saved.told["full"]["left"] == ["step-2", "step-5", "step-6"]
