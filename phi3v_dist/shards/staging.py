"""Where a shard folder is made, step by step, until its files get their names.

Enters: the final folder, what it holds already, and the fingerprint of the input. Leaves: the folder under its name
with all its files, or nothing under it; of a later delivery its tar files beside the old ones, and last the manifest.

::

    .NAME.partial-1f3c90ab77e2/     named by the input's fingerprint, so that another input never mixes in; of a later
                                    delivery also by what the folder holds: what was found beside less is of no use
      products/                     the table's products (catalog/product_file.py)
      checked/000012.arrow          good pictures of a chunk of products; .rejects.arrow: the others
      placed/                       which product goes where (shards/placed.py)
      shards/                       becomes NAME by one rename
        train/train-000000.tar …
        index.parquet, rejects.parquet, pictures.parquet, manifest.json     when all tar files are finished
      finished/
        train-000000.parquet        the tar file's rows of the index
        train-000000.json           its facts; written last, so the tar file is finished

There are no locks, since many cluster file systems know none. Instead each file is written whole under its name, and
alike whoever writes it. So it does no harm when something is done twice (a part that was started twice, two parts
that both find themselves the last), and what a killed process had finished stays finished.
"""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi3v_dist.errors import ShardError
from phi3v_dist.files import atomic_path, fsync_folder, write_json
from phi3v_dist.shards.manifest import MANIFEST_NAME

OTHER_FOLDER = "Set shards.folder to another folder, or delete this one."
_SOMEBODY_WAS_FASTER = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)


class Staging:
    """The folder beside ``final`` for one input. ``held``: hash of the index that ``final`` has, empty without one."""

    def __init__(self, final: Path, fingerprint: str, held: str = "") -> None:
        self.final = final
        self._of_this_input = f".{final.name}.partial-{fingerprint[:12]}"
        self.folder = final.with_name(self._of_this_input + (f"-{held[:12]}" if held else ""))
        self.products, self.checked, self.placed = (self.folder / name for name in ("products", "checked", "placed"))
        self.shards, self._finished = self.folder / "shards", self.folder / "finished"

    def open(self) -> None:
        """Make the folder, or go on in it. Raises ``ShardError`` when it can't be made or ``final`` has other files."""
        self.refuse_files()
        try:
            for folder in (self.products, self.checked, self.shards, self._finished):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"the shard folder can't be made: {error.strerror}"
            mend = "Set shards.folder to a place that you may write to."
            raise ShardError(what, where=str(self.final), mend=mend) from None

    def finish(self, tar: str, rows: pa.Table, facts: dict[str, Any]) -> None:
        """Write down that a tar file is finished: its part of the index, and its entry in the manifest."""
        with atomic_path(self._marker(tar).with_suffix(".parquet")) as temporary:
            pq.write_table(rows, temporary)
        write_json(self._marker(tar), facts)

    def unfinished(self, tars: list[str]) -> list[str]:
        """Those of ``tars`` that are not finished."""
        there = names_in(self._finished)
        return [tar for tar in tars if self._marker(tar).name not in there]

    def rows(self, tar: str) -> pa.Table:
        """A finished tar file's part of the index."""
        # A thread for each column would keep 30 MB of its own.
        return pq.read_table(self._marker(tar).with_suffix(".parquet"), use_threads=False, pre_buffer=False)

    def facts(self, tar: str) -> dict[str, Any]:
        """A finished tar file's entry in the manifest."""
        return json.loads(self._marker(tar).read_text(encoding="utf-8"))

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

    def move_in(self, names: list[str]) -> None:
        """Rename some of the files to their place in the finished folder, in this order; those there already stay."""
        for name in names:
            (self.final / name).parent.mkdir(exist_ok=True)
            try:
                os.replace(self.shards / name, self.final / name)
            except FileNotFoundError:
                if not (self.final / name).exists():
                    raise
        for folder in {(self.final / name).parent for name in names}:
            fsync_folder(folder)

    def clear(self) -> None:
        """Remove what is left of this input beside the final folder."""
        for name in names_in(self.final.parent):
            if name.startswith(self._of_this_input):
                shutil.rmtree(self.final.parent / name, ignore_errors=True)

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


def names_in(folder: Path) -> set[str]:
    """Names in a folder, as its file server knows them now: it is asked when a folder is opened, not for each name."""
    return {entry.name for entry in os.scandir(folder)}
