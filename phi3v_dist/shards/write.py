"""Make shards: a product table becomes WebDataset tar files with an index, a list of rejects and a manifest.

Enters: a product table (``CatalogOptions``) and where to write (``ShardOptions``). Leaves: the folder that
``shards/manifest.py`` draws. Four steps, each whole on disk before the next begins: read and check the table; check all
pictures; say which product stands where, which needs all pictures, as no picture may stand on both sides of the split;
write tar files. Any number of processes, of one command or of many, on one machine or many, do each step together
(``shards/workers.py``); they meet in ``shards/staging.py``. Nothing depends on who was faster: the same input gives
the same bytes with any number of workers and parts, and a killed command goes on behind what was finished.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from phi3v_dist.catalog.product_file import ProductFile, write_product_file
from phi3v_dist.catalog.split import is_far_off
from phi3v_dist.config.options import CatalogOptions, ShardOptions
from phi3v_dist.console import say
from phi3v_dist.errors import NO_ROOM, CatalogError, ConfigError, ShardError
from phi3v_dist.shards.checking import Chunks
from phi3v_dist.shards.delivery import Delivery, no_delivery, open_delivery
from phi3v_dist.shards.index import check_file
from phi3v_dist.shards.manifest import MANIFEST_NAME, SPLITS, describe_input, read_manifest
from phi3v_dist.shards.placed import Placed, write_placed
from phi3v_dist.shards.placing import ALL, Part, Shelf, cut_into_shelves
from phi3v_dist.shards.staging import OTHER_FOLDER, Staging
from phi3v_dist.shards.tars import write_shelf
from phi3v_dist.shards.workers import Workers, worker_pool


@dataclass(frozen=True)
class ShardSummary:
    """What became of a delivery, and what the shard folder holds. ``made_now`` is False when it held it already."""

    folder: Path
    counts: dict[str, int]  # samples of this delivery by split
    num_rows: int  # of its product table
    reasons: dict[str, int]  # its rejects by reason, most frequent first
    rejects: Path  # the file that names them
    num_deliveries: int  # of the folder, as are the others
    num_samples: int
    num_shards: int
    num_bytes: int
    split_note: str  # where products that share pictures moved the held-out share; else empty
    made_now: bool

    @property
    def num_rejects(self) -> int:
        """Rejected products, over all reasons."""
        return sum(self.reasons.values())

    @property
    def reject_share(self) -> float:
        """Rejected share of the table's rows."""
        return self.num_rejects / max(1, self.num_rows)


def make_shards(catalog: CatalogOptions, shards: ShardOptions, part: Part = ALL, *, add: bool = False) -> ShardSummary:
    """Write the shard folder; at once its summary when it stands already and table and options are the same.

    ``add``: the folder holds earlier deliveries, this is one more. ``part``: where to begin when other commands do the
    same; each goes on until the folder is whole. Raises ``CatalogError`` for a table or picture that can't be used at
    all and ``ShardError`` for a folder that holds something else. Wrong products are no error: they land in the
    rejects.
    """
    if "://" in shards.folder:
        raise ConfigError("shards are made on a file system", where="shards.folder", value=shards.folder,
                          mend="Give a path, and copy the finished folder to the store.")  # fmt: skip
    folder = Path(shards.folder).absolute()
    described = describe_input(catalog, shards)
    there = (folder / MANIFEST_NAME).exists()
    held = read_manifest(folder)["index"]["xxh3_128"] if there else ""
    staging = Staging(folder, described["fingerprint"], held)
    if there and (not add or _entry(folder, described)):
        return _standing(staging, described)
    delivery = open_delivery(folder) if there else no_delivery()
    staging.open()
    try:
        with worker_pool(shards.workers, part, __name__) as workers:
            products = _take_in(staging, catalog, delivery, workers)
            chunks = Chunks(staging.checked, len(products))
            write_placed(staging.placed, chunks, products.digests, delivery.earlier, catalog)
            shelves = cut_into_shelves(
                Placed(staging.placed).order, shards.samples_per_shard, delivery.earlier.num_tars
            )
            _write_tars(staging, shelves, catalog, workers)
        if delivery.complete(staging, shelves, products, described, catalog):
            return _summary(folder, described, made_now=True)
    except (OSError, ShardError) as error:
        if not _entry(folder, described):
            raise _told(error, staging) from None
    # Another process did the same work, and gave the files their names while this one was still at it.
    staging.refuse_files()
    return _standing(staging, described)


def _told(error: OSError | ShardError, staging: Staging) -> Exception:
    """What the user hears: what a full disk raises names no file."""
    if isinstance(error, ShardError) or error.filename is not None or error.errno not in NO_ROOM:
        return error
    mend = "Free space there and start again: what was finished stays."
    return ShardError(f"can't be written: {os.strerror(error.errno)}", where=str(staging.folder), mend=mend)


def _entry(folder: Path, described: dict[str, Any]) -> dict[str, Any] | None:
    """What a folder's manifest tells of the delivery that was made of this input; None where there is none."""
    if not (folder / MANIFEST_NAME).exists():
        return None
    manifest = read_manifest(folder)
    if "adopted" in manifest:
        raise ShardError("its tar files were made by others, no delivery can follow them", where=str(folder),
                         mend="Set shards.folder to another folder.")  # fmt: skip
    return next((told for told in manifest["deliveries"] if _same_input(told, described)), None)


def _same_input(told: dict[str, Any], described: dict[str, Any]) -> bool:
    """Whether a delivery was made of this input: what was fetched counts where its table names a URL."""
    if told["fingerprint"] == described["fingerprint"]:
        return True
    fetched = {"fetched_pictures": told["options"]["fetched_pictures"]}
    same_options = told["options"] == described["options"] | fetched
    return not told["urls"] and told["table_sha256"] == described["table_sha256"] and same_options


def _take_in(staging: Staging, catalog: CatalogOptions, delivery: Delivery, workers: Workers) -> ProductFile:
    """Read the table and check all pictures."""
    if not ProductFile.is_there(staging.products):
        say("reading the product table")
        try:
            write_product_file(staging.products, catalog, delivery.earlier.codes, delivery.earlier.currency)
        except CatalogError:
            staging.clear()  # nothing can be made of this table
            raise
    products = ProductFile(staging.products, catalog)
    chunks = Chunks(staging.checked, len(products))
    if finished := len(chunks) - len(chunks.unfinished()):
        say(f"{finished} of {len(chunks)} chunks of pictures are checked already in {staging.folder}")
        say("if pictures were changed since, delete that folder and start again")
    work = partial(_check_chunk, staging, catalog)
    workers.finish(work, len(chunks), chunks.unfinished, f"checking pictures, chunks of {chunks.size} products")
    return products


def _write_tars(staging: Staging, shelves: Sequence[Shelf], catalog: CatalogOptions, workers: Workers) -> None:
    tars = [shelf.tar for shelf in shelves]

    def unfinished() -> list[int]:
        missing = set(staging.unfinished(tars))
        return [number for number, tar in enumerate(tars) if tar in missing]

    work: Callable[[int], None] = partial(_write_shelf, staging, shelves, catalog)
    workers.finish(work, len(shelves), unfinished, "writing tar files")


def _check_chunk(staging: Staging, catalog: CatalogOptions, number: int) -> None:
    products = _products(staging.products, catalog)
    Chunks(staging.checked, len(products)).check(number, products, catalog)


def _write_shelf(staging: Staging, shelves: Sequence[Shelf], catalog: CatalogOptions, number: int) -> None:
    products, placed = _products(staging.products, catalog), _placed(staging.placed)
    write_shelf(staging, shelves[number], products, placed, catalog)


@lru_cache(maxsize=1)
def _products(folder: Path, catalog: CatalogOptions) -> ProductFile:
    return ProductFile(folder, catalog)  # once per process


@lru_cache(maxsize=1)
def _placed(folder: Path) -> Placed:
    return Placed(folder)


def _summary(folder: Path, described: dict[str, Any], *, made_now: bool) -> ShardSummary:
    manifest, told = read_manifest(folder), _entry(folder, described)
    assert told is not None, "the manifest names no such delivery"
    return ShardSummary(
        folder=folder,
        counts={split: told["samples"][split] for split in SPLITS},
        num_rows=told["rows"],
        reasons=dict(sorted(told["rejected"].items(), key=lambda pair: (-pair[1], pair[0]))),
        rejects=folder / manifest["rejects"]["path"],
        num_deliveries=len(manifest["deliveries"]),
        num_samples=sum(manifest["counts"].values()),
        num_shards=len(manifest["shards"]),
        num_bytes=sum(shard["bytes"] for shard in manifest["shards"]),
        split_note=_split_note(manifest),
        made_now=made_now,
    )


def _split_note(manifest: dict[str, Any]) -> str:
    num_heldout, num_samples = manifest["counts"]["heldout"], sum(manifest["counts"].values())
    asked = manifest["deliveries"][-1]["options"]["heldout_share"]
    groups = [told["largest_group"] for told in manifest["deliveries"] if "largest_group" in told]  # older ones lack it
    group = max(groups, key=lambda told: told["products"], default={"products": 0})
    if group["products"] < 2 or not is_far_off(num_heldout, num_samples, asked):
        return ""
    return (
        f"{num_heldout / num_samples:.1%} of the products are held out, catalog.heldout_share asks for {asked:.1%}: "
        f"products that share pictures stay together, the largest group has {group['products']:,} "
        f"(one is {group['first_code']}). If they share a placeholder, take it out of the table; "
        "else raise or lower catalog.heldout_share."
    )


def _standing(staging: Staging, described: dict[str, Any]) -> ShardSummary:
    """The summary of a finished folder; ``ShardError`` when it is incomplete or was made from another input."""
    folder = staging.final
    manifest = read_manifest(folder)
    if not _entry(folder, described):
        last = manifest["deliveries"][-1]
        changed = [name for name, value in described["options"].items() if last["options"].get(name) != value]
        if last["table_sha256"] != described["table_sha256"]:
            changed.insert(0, "the product table")
        raise ShardError(
            f"these shards were made from another input, changed: {', '.join(changed) or 'the schema'}",
            where=str(folder),
            mend=f"{OTHER_FOLDER} More products of the same catalogue: --add",
        )
    for told in [*manifest["shards"], manifest["index"], manifest["rejects"], manifest["pictures"]]:
        check_file(folder, told)
    staging.clear()  # of a process that was killed right behind the rename, or did the same work a second time
    return _summary(folder, described, made_now=False)
