"""Files of a checkpoint: what is written is what is hashed, and a full disk is an OSError that says so."""

import errno
import hashlib
from pathlib import Path

import pytest
import torch

from phi3v_dist.checkpoints.writer import HashingWriter, write_hashed

STATE = {"weights": torch.arange(300_000.0), "twice": [torch.ones(5)] * 2, "step": 3}


def test_file_is_what_torch_loads_and_its_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    file = write_hashed(STATE, tmp_path / "state.pt")
    content = (tmp_path / "state.pt").read_bytes()
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    loaded = torch.load(tmp_path / "state.pt")
    assert torch.equal(loaded["weights"], STATE["weights"]) and loaded["step"] == 3
    assert loaded["twice"][0].data_ptr() == loaded["twice"][1].data_ptr()


def test_full_disk_is_an_error_with_its_number_and_file() -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_hashed(STATE, "/dev/full")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_what_cannot_be_pickled_is_a_bug_and_no_fault_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="pickle") as caught:
        write_hashed({"function": lambda: None}, tmp_path / "state.pt")
    assert not isinstance(caught.value, OSError)


def test_writer_keeps_the_first_fault_and_writes_nothing_after_it(tmp_path: Path) -> None:
    writer = HashingWriter(tmp_path)
    (tmp_path / "engine").mkdir()
    writer.save(STATE, str(tmp_path / "engine/one.pt"))
    writer.save(STATE, str(tmp_path / "not there/two.pt"))
    writer.save(STATE, str(tmp_path / "engine/three.pt"))
    assert isinstance(writer.fault, FileNotFoundError)
    assert list(writer.written) == ["engine/one.pt"]
    assert not (tmp_path / "engine/three.pt").exists()
