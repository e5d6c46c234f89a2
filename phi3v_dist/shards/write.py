"""Make shards: checked products become WebDataset tar files with an index, a list of rejects and a manifest.

Enters: a product table (``CatalogOptions``) and where to write (``ShardOptions``). Leaves: the folder that
``shards/manifest.py`` draws. Checking a picture costs 15 times as much as writing it, so processes check, in the final
order, while this one writes; they read finished tar files back for the index. Several such commands, on one machine or
many, may each take a part of the tar files (``shards/shelves.py``); they meet in ``shards/staging.py``, and whoever
finds all finished joins them. Nothing depends on who was faster: the same input gives the same bytes with any number
of workers and parts, and a killed command goes on behind its last finished tar file.
"""

import io
import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from phi3v_dist.catalog.checks import Product, Reject, check_rows
from phi3v_dist.catalog.pictures import Picture
from phi3v_dist.catalog.tables import read_table
from phi3v_dist.config.options import CatalogOptions, ShardOptions
from phi3v_dist.console import progress, say
from phi3v_dist.errors import CatalogError, ShardError
from phi3v_dist.files import atomic_path, write_json
from phi3v_dist.images import FORMATS
from phi3v_dist.shards.index import check_file, write_index
from phi3v_dist.shards.manifest import MANIFEST_NAME, SPLITS, build_manifest, describe_input, read_manifest
from phi3v_dist.shards.rejects import count_reasons, write_rejects
from phi3v_dist.shards.shelves import Part, Shelf, digest_of, fill_shelves
from phi3v_dist.shards.staging import OTHER_FOLDER, Staging
from phi3v_dist.shards.workers import worker_pool

# A tar header has room for 100 bytes of name; longer ones need an extra header that some readers don't know.
_MAX_KEY_BYTES = 80
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg"}  # MPO: a JPEG with more pictures behind it


@dataclass(frozen=True)
class ShardSummary:
    """What a shard folder holds. ``made_now`` is False when it stood already, made from the same input."""

    folder: Path
    counts: dict[str, int]  # samples by split
    num_rows: int  # of the product table
    reasons: dict[str, int]  # rejects by reason, most frequent first
    num_shards: int
    num_bytes: int
    made_now: bool

    @property
    def num_rejects(self) -> int:
        """Rejected products, over all reasons."""
        return sum(self.reasons.values())

    @property
    def reject_share(self) -> float:
        """Rejected share of the table's rows."""
        return self.num_rejects / max(1, self.num_rows)


@dataclass(frozen=True)
class PartSummary:
    """A part that is done while others are not: ``num_missing`` of ``num_tars`` tar files aren't finished."""

    folder: Path
    part: Part
    num_missing: int
    num_tars: int


def make_shards(catalog: CatalogOptions, shards: ShardOptions) -> ShardSummary:
    """Write the shard folder; at once its summary when it stands already and table and options are the same.

    Raises ``CatalogError`` for a table or picture that can't be used at all and ``ShardError`` for a folder that holds
    something else. Wrong products are no error: they land in ``rejects.parquet``.
    """
    summary = make_part(catalog, shards, Part())
    assert isinstance(summary, ShardSummary), "the only part is also the last"
    return summary


def make_part(catalog: CatalogOptions, shards: ShardOptions, part: Part) -> ShardSummary | PartSummary:
    """Write a part's tar files, and when it finds that no other is missing, the rest of the folder. Else as above."""
    folder = Path(shards.folder).absolute()
    described = describe_input(catalog, shards)
    staging = Staging(folder, described["fingerprint"])
    if (folder / MANIFEST_NAME).exists():
        return _standing(staging, described)
    rows = list(read_table(catalog))
    if not rows:
        raise CatalogError("has no row", where=catalog.table, mend="Export the table again.")
    products, rejects = check_rows(rows, catalog)
    assert len(products) + len(rejects) == len(rows), "a row was lost between table and checks"
    shelves = fill_shelves(products, catalog.heldout_share, shards.samples_per_shard)
    staging.open()
    named = folder / MANIFEST_NAME
    try:
        _make_tars(staging, part.of(shelves), catalog, shards.workers)
        if not named.exists():
            if missing := staging.unfinished([shelf.tar for shelf in shelves]):
                return PartSummary(folder, part, len(missing), len(shelves))
            manifest = _join(staging, shelves, rejects, described | {"rows": len(rows)})
            if staging.give_name():
                return _summary(folder, manifest, made_now=True)
    except (OSError, ShardError):
        if not named.exists():
            raise
    # Another process did the same work, and gave the folder its name while this one was still at it.
    staging.refuse_files()
    return _standing(staging, described)


def _make_tars(staging: Staging, shelves: Sequence[Shelf], catalog: CatalogOptions, num_workers: int) -> None:
    """Check and write what isn't finished, reading each tar file back while the next is written."""
    missing = set(staging.unfinished([shelf.tar for shelf in shelves]))
    if len(missing) < len(shelves):
        say(f"{len(shelves) - len(missing)} of {len(shelves)} tar files are finished already in {staging.folder}")
        say("if pictures were changed since, delete that folder and start again")
    todo = [shelf for shelf in shelves if shelf.tar in missing]
    num_products = sum(len(shelf.products) for shelf in todo)
    pending: list[Future[None]] = []
    with worker_pool(num_workers) as workers:
        verdicts = progress(workers.check_pictures(todo, catalog), "checking and writing", num_products)
        for shelf in todo:
            judged = list(islice(verdicts, len(shelf.products)))
            good = [product for _, product, reject in judged if reject is None]
            members = _write_tar(staging.shards / shelf.tar, good) if good else []
            rejects = [reject for *_, reject in judged if reject is not None]
            pending.append(workers.finish(staging, shelf, members, rejects))
        assert next(verdicts, None) is None, "more verdicts than products"
        for future in pending:
            future.result()


def _join(
    staging: Staging, shelves: Sequence[Shelf], rejects: Sequence[Reject], described: dict[str, Any]
) -> dict[str, Any]:
    """Write index, rejects and manifest over all finished tar files; the manifest."""
    finished = [staging.finished(shelf.tar) for shelf in shelves]
    facts = [shelf.facts for shelf in finished if shelf.facts is not None]
    for told in facts:
        check_file(staging.shards, told)
    write_index(staging.shards, [shelf.rows for shelf in finished if shelf.rows is not None])
    rejects = [*rejects, *(reject for shelf in finished for reject in shelf.rejects)]
    write_rejects(staging.shards, rejects)
    manifest = build_manifest(staging.shards, facts, count_reasons(rejects), described)
    write_json(staging.shards / MANIFEST_NAME, manifest)
    return manifest


def key_of(code: str) -> str:
    """The product's name in a tar file: different for different codes, ASCII, without dots (a key ends at a dot)."""
    key = quote(code, safe="").replace(".", "%2E")
    return key if len(key) <= _MAX_KEY_BYTES else f"{key[:40]}-{digest_of(code)[:32]}"


def _summary(folder: Path, manifest: dict[str, Any], *, made_now: bool) -> ShardSummary:
    return ShardSummary(
        folder=folder,
        counts={split: manifest["counts"][split] for split in SPLITS},
        num_rows=manifest["input"]["rows"],
        reasons=dict(sorted(manifest["rejects"]["by_reason"].items(), key=lambda pair: (-pair[1], pair[0]))),
        num_shards=len(manifest["shards"]),
        num_bytes=sum(shard["bytes"] for shard in manifest["shards"]),
        made_now=made_now,
    )


def _standing(staging: Staging, described: dict[str, Any]) -> ShardSummary:
    """The summary of a finished folder; ``ShardError`` when it is incomplete or was made from another input."""
    folder = staging.final
    manifest = read_manifest(folder)
    made_from = manifest["input"]
    if made_from["fingerprint"] != described["fingerprint"]:
        changed = [name for name, value in described["options"].items() if made_from["options"].get(name) != value]
        if made_from["table_sha256"] != described["table_sha256"]:
            changed.insert(0, "the product table")
        raise ShardError(
            f"these shards were made from another input, changed: {', '.join(changed) or 'the schema'}",
            where=str(folder),
            mend=OTHER_FOLDER,
        )
    for told in [*manifest["shards"], manifest["index"], manifest["rejects"]]:
        check_file(folder, told)
    staging.clear()  # of a process that was killed right behind the rename, or did the same work a second time
    return _summary(folder, manifest, made_now=False)


def _write_tar(path: Path, products: list[Product]) -> list[str]:
    """Write a tar file, durable and whole; the kinds of members in it. ``mtime=0``: a clock would change the bytes."""
    from webdataset.writer import TarWriter  # imports torch, which the worker processes don't need

    kinds: set[str] = set()
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as stream,
        TarWriter(stream, encoder=False, mtime=0) as tar,
    ):
        for product in products:
            members = _members(product)
            kinds |= members.keys()
            tar.write({"__key__": key_of(product.code), **members})
    return sorted(kinds)


def _members(product: Product) -> dict[str, bytes]:
    told = {
        "category": product.category,
        "currency": product.currency,
        "further": product.further,
        "price": float(product.price),
        "product_code": product.code,
        "title": product.title,
    }
    members = {}
    for number, picture in enumerate(product.pictures):
        content, suffix = _content(picture, product.row)
        members[f"{number:02d}.{suffix}"] = content
    return members | {"json": json.dumps(told, sort_keys=True, ensure_ascii=False).encode()}


def _content(picture: Picture, row: int) -> tuple[bytes, str]:
    """A picture's bytes, and its suffix by content: a file name's ending may lie, readers choose a decoder by it."""
    try:
        content = picture.read()
        kind = Image.open(io.BytesIO(content), formats=FORMATS).format or ""
    except OSError:
        raise CatalogError(
            "the picture could be read a moment ago, now it can't",
            where=f"row {row}",
            value=str(picture),
            mend="Leave the pictures alone while shards are made, then start again.",
        ) from None
    return content, _SUFFIXES.get(kind, kind.lower())
