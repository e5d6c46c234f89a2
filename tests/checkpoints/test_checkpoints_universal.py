"""A copy for another number of ranks against the one that DeepSpeed's own command makes."""

import sys

import pytest
import torch
from launching import run

from phi3v_dist.checkpoints.choose import complete_checkpoints
from phi3v_dist.checkpoints.universal import universal_copy
from phi3v_dist.cluster.who import ALONE


@pytest.fixture
def checkpoint(saved, group_of_one):
    return complete_checkpoints(saved.run)[-1]


def hidden(checkpoint):
    return [path.name for path in checkpoint.folder.parent.iterdir() if path.name.startswith(".")]


def test_copy_is_the_one_of_deepspeeds_command(checkpoint, tmp_path):
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--num_extract_workers=1"]
    folders = ["--input_folder", str(checkpoint.folder / "engine"), "--output_folder", str(tmp_path / "theirs")]
    done = run([*command, "--num_merge_workers=1", *folders])
    assert done.returncode == 0, done.stderr
    theirs = {str(path.relative_to(tmp_path / "theirs")) for path in (tmp_path / "theirs/zero").rglob("*.pt")}
    with universal_copy(checkpoint, ALONE) as copy:
        ours = {str(path.relative_to(copy / "engine")) for path in (copy / "engine/zero").rglob("*.pt")}
        assert ours == theirs and len(ours) > 200
        for name in ours - {"zero/optimizer_state.pt"}:
            assert torch.equal(torch.load(copy / "engine" / name), torch.load(tmp_path / "theirs" / name)), name
        small, whole = (
            torch.load(folder / "zero/optimizer_state.pt", weights_only=False)
            for folder in (copy / "engine", tmp_path / "theirs")
        )
    states = [told["optimizer_state_dict"] for told in (small, whole)]
    assert states[0]["state"][0]["step"] == states[1]["state"][0]["step"] == 1
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert hidden(checkpoint) == []


def test_copy_that_was_cut_off_is_made_anew(checkpoint):
    left = checkpoint.folder.with_name(f".{checkpoint.folder.name}.universal") / "engine/zero/lm_head.weight"
    left.mkdir(parents=True)
    (left / "fp32.pt").write_bytes(b"half")
    with universal_copy(checkpoint, ALONE) as copy:
        assert torch.load(copy / "engine/zero/lm_head.weight/fp32.pt").numel() > 0
    assert hidden(checkpoint) == []
