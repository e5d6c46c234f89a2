"""Where the parts of one shard folder meet, until every tar file is finished and the folder gets its name.

Enters: the final folder, and the fingerprint of the input. Leaves: the folder under its name with all its files, or
nothing under it.

::

    .NAME.partial-1f3c90ab77e2/     named by the input's fingerprint, so that parts of another input never mix in
      shards/                       becomes NAME by one rename
        train/train-000000.tar …
        index.parquet, rejects.parquet, manifest.json     by whoever finds that all tar files are finished
      finished/
        train-000000.parquet        the tar file's rows of the index
        train-000000.json           its facts and rejects; written last, so the tar file is finished

There are no locks, since many cluster file systems know none. Instead each file is written whole under its name, and
alike whoever writes it. So it does no harm when something is done twice (a part that was started twice, two parts
that both find themselves the last), and what a killed process had finished stays finished.
"""

import dataclasses
import errno
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi3v_dist.catalog.checks import Reject
from phi3v_dist.errors import ShardError
from phi3v_dist.files import atomic_path, fsync_folder, write_json
from phi3v_dist.shards.manifest import MANIFEST_NAME

OTHER_FOLDER = "Set shards.folder to another folder, or delete this one."
_SOMEBODY_WAS_FASTER = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)


@dataclass(frozen=True)
class FinishedShelf:
    """``facts``: the tar file's entry in the manifest and ``rows`` its part of the index; none if it has no sample."""

    facts: dict[str, Any] | None
    rows: pa.Table | None
    rejects: list[Reject]


class Staging:
    """The folder beside ``final`` for one input."""

    def __init__(self, final: Path, fingerprint: str) -> None:
        self.final = final
        self.folder = final.with_name(f".{final.name}.partial-{fingerprint[:12]}")
        self.shards = self.folder / "shards"
        self._finished = self.folder / "finished"

    def open(self) -> None:
        """Make the folder, or go on in it. Raises ``ShardError`` when it can't be made or ``final`` has other files."""
        self.refuse_files()
        try:
            for folder in (self.shards, self._finished):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"the shard folder can't be made: {error.strerror}"
            mend = "Set shards.folder to a place that you may write to."
            raise ShardError(what, where=str(self.final), mend=mend) from None

    def finish(self, tar: str, shelf: FinishedShelf) -> None:
        """Write down that a tar file is finished."""
        if shelf.rows is not None:
            with atomic_path(self._marker(tar).with_suffix(".parquet")) as temporary:
                pq.write_table(shelf.rows, temporary)
        rejects = [dataclasses.asdict(reject) for reject in shelf.rejects]
        write_json(self._marker(tar), {"facts": shelf.facts, "rejects": rejects})

    def unfinished(self, tars: list[str]) -> list[str]:
        """Those of ``tars`` that are not finished."""
        there = {entry.name for entry in os.scandir(self._finished)}  # opening a folder asks the file server anew
        return [tar for tar in tars if self._marker(tar).name not in there]

    def finished(self, tar: str) -> FinishedShelf:
        """Read back what ``finish`` wrote."""
        told = json.loads(self._marker(tar).read_text(encoding="utf-8"))
        rejects = [Reject(**reject) for reject in told["rejects"]]
        rows = pq.read_table(self._marker(tar).with_suffix(".parquet")) if told["facts"] else None
        return FinishedShelf(told["facts"], rows, rejects)

    def give_name(self) -> bool:
        """Rename the shards to their final name; False when another process did."""
        try:
            os.replace(self.shards, self.final)
        except OSError as error:
            if error.errno not in _SOMEBODY_WAS_FASTER:
                raise
            return False
        for left in self.final.rglob(".*.partial"):  # half a file of a process that was killed, or was as far as we
            left.unlink(missing_ok=True)
        fsync_folder(self.final.parent)
        self.clear()
        return True

    def clear(self) -> None:
        """Remove what is left beside the final folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def refuse_files(self) -> None:
        """Raise ``ShardError`` when something stands under the final name that isn't ours to replace."""
        final = self.final
        if final.exists() and not final.is_dir():
            raise ShardError("a file is in the way of the shard folder", where=str(final), mend=OTHER_FOLDER)
        names = sorted(entry.name for entry in final.iterdir()) if final.is_dir() else []
        if names and MANIFEST_NAME not in names:
            what = "the folder holds files but no manifest.json"
            raise ShardError(what, where=str(final), value=names[0], mend=OTHER_FOLDER)

    def _marker(self, tar: str) -> Path:
        return self._finished / Path(tar).with_suffix(".json").name
