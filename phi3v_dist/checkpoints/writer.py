"""How a rank writes its files of a checkpoint: hashed on the way, flushed to disk, every fault remembered.

Enters: what DeepSpeed wants to save. Leaves: the files, and their bytes and SHA-256 as they left the memory, so that
what a disk or a network changes on the way is found later. A rank that can't write must not leave DeepSpeed's save
early: the others would wait for it in a barrier. So a fault is kept until all ranks are through.
"""

import hashlib
import os
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from phi3v_dist.checkpoints.choose import WrittenFile
from phi3v_dist.files import fsync_file, fsync_folder, sha256_of


class HashingWriter(TorchCheckpointEngine):
    """Takes the place of ``engine.checkpoint_engine`` during one save. ``fault``: the first one met."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.written: dict[str, WrittenFile] = {}
        self.fault: OSError | None = None
        self._folder = folder

    def save(self, state_dict: Any, path: str) -> None:
        """Write one file; nothing after a fault."""
        if self.fault is not None:
            return
        try:
            self.written[str(Path(path).relative_to(self._folder))] = write_hashed(state_dict, path)
        except OSError as error:
            self.fault = error

    def add_small_files(self) -> None:
        """Take in what DeepSpeed put at the top of the folder without asking: its scripts for merging."""
        for path in sorted(path for path in self._folder.iterdir() if path.is_file()):
            fsync_file(path)
            self.written[path.name] = WrittenFile(path.stat().st_size, sha256_of(path))


def write_hashed(state: Any, path: str | Path) -> WrittenFile:
    """``torch.save``, durable. Raises ``OSError``, also where PyTorch makes another error of a full disk."""
    with open(path, "wb", buffering=0) as handle:
        stream = _HashingStream(handle)
        try:
            torch.save(state, stream)  # type: ignore[arg-type]
        except (RuntimeError, OSError):
            if stream.fault is None:
                raise
        if stream.fault is not None:
            raise OSError(stream.fault.errno, stream.fault.strerror, str(path))
        os.fsync(handle.fileno())
    fsync_folder(Path(path).parent)
    return WrittenFile(stream.bytes, stream.sha256.hexdigest())


class _HashingStream:
    """What ``torch.save`` writes to: it only ever goes forward."""

    def __init__(self, handle: FileIO) -> None:
        self.sha256, self.bytes = hashlib.sha256(), 0
        self.fault: OSError | None = None
        self._handle = handle

    def write(self, data: bytes) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        self.sha256.update(left)
        try:
            while left:
                left = left[self._handle.write(left) :]
        except OSError as error:
            self.fault = error
            raise
        self.bytes += size
        return size

    def flush(self) -> None:
        """Nothing is held back."""
