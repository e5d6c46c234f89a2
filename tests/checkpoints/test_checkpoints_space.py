"""Room on a disk. What is predicted against what is written: test_checkpoints_save.py."""

import shutil
from pathlib import Path

import pytest

from phi3v_dist.checkpoints.choose import Checkpoint, WrittenFile
from phi3v_dist.checkpoints.space import conversion_bytes, need_space
from phi3v_dist.errors import CheckpointError


def test_what_fits_passes_and_what_does_not_is_one_line_with_both_sizes(tmp_path: Path) -> None:
    free_bytes = shutil.disk_usage(tmp_path).free
    need_space(tmp_path, free_bytes // 2, "the next checkpoint")
    with pytest.raises(
        CheckpointError, match=r"the next checkpoint needs .* GB and this disk has .* GB free"
    ) as caught:
        need_space(tmp_path, 2 * free_bytes, "the next checkpoint")
    assert caught.value.where == str(tmp_path)


def test_a_copy_for_another_number_of_ranks_takes_the_checkpoints_bytes_and_its_pieces(tmp_path: Path) -> None:
    files = {f"engine/rank_{rank}.pt": WrittenFile(10**10, "") for rank in range(4)}
    need_bytes = conversion_bytes(Checkpoint(tmp_path, 1, 4, {}, files=files), num_parameters=592)
    assert need_bytes == pytest.approx(4e10, rel=0.01)
    assert need_bytes > 4e10
