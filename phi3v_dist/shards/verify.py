"""Is every byte still what was written?

Enters: a shard folder. Leaves: one line per damage, naming shard, offset and key. Each sample is read as training
reads it, then each file's hash is compared, which also sees damage between samples (tar headers, padding).
"""

from pathlib import Path

from phi3v_dist.console import progress
from phi3v_dist.errors import ShardError
from phi3v_dist.files import sha256_of
from phi3v_dist.shards.index import ShardIndex, check_file, open_index
from phi3v_dist.shards.manifest import SPLITS, read_manifest
from phi3v_dist.shards.read import DamagedSample, ShardReader


def verify_shards(folder: str | Path) -> list[str]:
    """Compare all samples with the index, and all files with the manifest; the damages, empty when all is well.

    Raises ``ShardError`` when manifest or index themselves can't be used.
    """
    folder = Path(folder).absolute()
    manifest = read_manifest(folder)
    index = open_index(folder, manifest)
    damages, shards_named = _damaged_samples(index)
    for told in [*manifest["shards"], manifest["rejects"], manifest["pictures"]]:
        if told["path"] in shards_named:
            continue
        try:
            check_file(folder, told)
        except ShardError as error:
            damages.append(str(error))
            continue
        if sha256_of(folder / told["path"]) != told["sha256"]:
            damages.append(f"{told['path']}: SHA-256 differs from the manifest's, no sample is touched")
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


def _wrong_counts(index: ShardIndex, counts: dict[str, int]) -> list[str]:
    found = {split: len(index.numbers(split)) for split in SPLITS}
    return [] if found == counts else [f"the index counts {found}, the manifest {counts}"]
