"""Is every byte still what was written?

Enters: a shard folder or URL. Leaves: one line per damage, naming shard, offset and key. Each sample is read as
training reads it, checksum included; then each file's XXH3-128 is compared, which also sees damage between samples (tar
headers, padding) and what was changed without its index.
"""

from pathlib import Path
from typing import Any

from phi3v_dist.console import progress
from phi3v_dist.errors import ShardError
from phi3v_dist.files import xxh3_of
from phi3v_dist.shards.index import ShardIndex, check_file, open_index
from phi3v_dist.shards.manifest import SPLITS, read_manifest
from phi3v_dist.shards.read import DamagedSample, ShardReader
from phi3v_dist.shards.remote import as_folder


def verify_shards(folder: str | Path) -> list[str]:
    """Compare all samples with the index, and all files with the manifest; the damages, empty when all is well.

    Raises ``ShardError`` when manifest or index themselves can't be used.
    """
    folder = as_folder(folder)
    manifest = read_manifest(folder)
    index = open_index(folder, manifest)
    damages, shards_named = _damaged_samples(index)
    told = [*manifest["shards"], *(manifest[kind] for kind in ("rejects", "pictures") if kind in manifest)]
    unnamed = [file for file in told if file["path"] not in shards_named]
    for file in progress(unnamed, "verifying files", len(unnamed)):
        damages += _file_damage(folder, file)
    return damages + _wrong_counts(index, manifest["counts"])


def _damaged_samples(index: ShardIndex) -> tuple[list[str], set[str]]:
    reader = ShardReader(index)
    lines, shards = [], set()
    for number in progress(range(len(index)), "verifying samples", len(index)):
        try:
            reader.sample(number)
        except DamagedSample as damage:
            lines.append(str(damage))
            shards.add(damage.shard)
    reader.close()
    return lines, shards


def _file_damage(folder: Path, told: dict[str, Any]) -> list[str]:
    try:
        check_file(folder, told)
        found = xxh3_of(folder / told["path"])
    except ShardError as error:
        return [str(error)]
    except OSError as error:
        return [f"{told['path']}: the file can't be read ({error.strerror or error})"]
    if found != told["xxh3_128"]:
        return [f"{told['path']}: XXH3-128 differs from the manifest's, though no sample is damaged"]
    return []


def _wrong_counts(index: ShardIndex, counts: dict[str, int]) -> list[str]:
    found = {split: len(index.numbers(split)) for split in SPLITS}
    return [] if found == counts else [f"the index counts {found}, the manifest {counts}"]
