"""An index for WebDataset tar files that others made.

Enters: a folder of plain ``*.tar`` with pictures and a JSON per sample, under any member names, and the recipe's
``catalog.columns`` and ``catalog.rules``, which say what the JSON's fields mean. Leaves: ``index.parquet`` and
``manifest.json`` beside the untouched files, so that they train like our own; or what can't be used, each with tar
file, offset and key. Texts go through the same checks as a product table's. A sample without a code is named by its
key. Pictures are measured and hashed, not decoded.
"""

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from phi3v_dist.catalog.cells import cell_text
from phi3v_dist.catalog.checks import Product, Reject, check_rows
from phi3v_dist.catalog.rules import apply_rules
from phi3v_dist.catalog.split import split_of
from phi3v_dist.catalog.tables import RawRow
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.console import progress
from phi3v_dist.errors import ShardError
from phi3v_dist.files import write_json
from phi3v_dist.images import ImageError
from phi3v_dist.shards.index import SHARD_SCHEMA, member_columns, samples_of, write_index
from phi3v_dist.shards.manifest import MANIFEST_NAME, SPLITS, build_manifest, describe_file
from phi3v_dist.shards.rejects import count_reasons, write_rejects

SplitBy = Literal["folder", "code"]

_SPLIT_FOLDERS = {"train": "train"} | dict.fromkeys(("heldout", "val", "valid", "validation", "test"), "heldout")
_PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "tif", "tiff", "bmp", "avif")
_PLACES = pa.schema([SHARD_SCHEMA.field(name) for name in SHARD_SCHEMA.names if name not in
                     ("split", "product_code", "title", "category", "price", "currency", "further")])  # fmt: skip


@dataclass
class AdoptedTar:
    """One tar file as it was found: its samples' raw rows with their places, and what has no use at all."""

    shard: str
    rows: list[RawRow] = field(default_factory=list)
    places: list[dict[str, Any]] = field(default_factory=list)
    suffixes: set[str] = field(default_factory=set)
    faults: list[Reject] = field(default_factory=list)


@dataclass(frozen=True)
class Adoption:
    """What came of it. ``unusable``: ``Reject``s whose ``value`` names offset and key; ``written``: False, and
    nothing was, where there are any that the caller doesn't skip.
    """

    counts: dict[str, int]
    unusable: list[Reject]
    split_by: SplitBy
    written: bool


def adopt_tars(folder: str | Path, options: CatalogOptions, split_by: SplitBy | None, *, skip: bool) -> Adoption:
    """Index all tar files below ``folder``. ``split_by`` None: by folder where all lie in ones that name a split.

    ``skip``: leave out what can't be used and write the rest. Raises ``ShardError``.
    """
    folder = Path(folder).absolute()
    shards = _tars(folder)
    split_by = split_by or ("folder" if all(_split_folder(shard) for shard in shards) else "code")
    for shard in shards:
        if split_by == "folder" and _split_folder(shard) is None:
            raise ShardError("lies in no folder that names a split", where=str(folder / shard),
                             mend=f"Name it one of {', '.join(_SPLIT_FOLDERS)}, or split by code.")  # fmt: skip
    found = list(_read_all(folder, shards, options))
    products, rejects = check_rows([row for tar in found for row in tar.rows], options)
    at = {place["row"]: (tar.shard, place) for tar in found for place in tar.places}
    unusable = [fault for tar in found for fault in tar.faults] + [
        _placed(reject, *at[reject.row]) for reject in rejects
    ]
    usable = {product.row: product for product in products}
    splits = {row: _split_folder(at[row][0]) if split_by == "folder" else split_of(product.code, options.heldout_share)
              for row, product in usable.items()}  # fmt: skip
    counts = dict.fromkeys(SPLITS, 0) | Counter(splits.values())
    written = bool(usable) and (skip or not unusable)
    if written:
        _write(folder, found, usable, splits, unusable, {"options": options.model_dump(mode="json")})
    return Adoption(counts, unusable, split_by, written)


def _tars(folder: Path) -> list[str]:
    if (folder / MANIFEST_NAME).exists():
        mend = f"To make it anew, delete {MANIFEST_NAME} and index.parquet first."
        raise ShardError("has an index already", where=str(folder), mend=mend)
    shards = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tar") if path.is_file())
    if not shards:
        raise ShardError("no *.tar below this folder", where=str(folder), mend="Name the folder of the tar files.")
    return shards


def _split_folder(shard: str) -> str | None:
    return _SPLIT_FOLDERS.get(shard.split("/", maxsplit=1)[0]) if "/" in shard else None


def _read_all(folder: Path, shards: Sequence[str], options: CatalogOptions) -> Iterator[AdoptedTar]:
    number = 0
    for shard in progress(shards, "reading tar files", len(shards)):
        found = AdoptedTar(shard)
        try:
            with tarfile.open(folder / shard, "r:") as tar:  # of a compressed one offsets would mean nothing
                for key, members in samples_of(tar):
                    number += 1
                    _read_sample(tar, found, number, key, members, options)
        except (tarfile.TarError, OSError) as error:
            found.faults.append(Reject(shard, number, "", "tar: can't be read", str(error)))
        yield found


def _read_sample(
    tar: tarfile.TarFile,
    found: AdoptedTar,
    number: int,
    key: str,
    members: dict[str, tarfile.TarInfo],
    options: CatalogOptions,
) -> None:
    """Put a sample's row and place into ``found``, or its fault."""
    offset = min(member.offset_data for member in members.values())

    def fault(reason: str, value: object = "") -> None:
        found.faults.append(Reject(found.shard, number, "", reason, _at(offset, key, value)))

    texts = [suffix for suffix in members if suffix.rpartition(".")[2] == "json"]
    pictures = sorted((suffix for suffix in members if suffix.rpartition(".")[2] in _PICTURES), key=_natural)
    if len(texts) != 1:
        return fault("json: missing" if not texts else "json: more than one", ", ".join(sorted(members)))
    if not pictures:
        return fault("picture: missing", ", ".join(sorted(members)))
    try:
        places, content = member_columns(tar, members[texts[0]], [members[suffix] for suffix in pictures])
        told = json.loads(content)
    except ImageError as error:
        return fault(f"picture: {error.reason}", ", ".join(pictures))
    except ValueError as error:
        return fault("json: can't be read", error)
    if not isinstance(told, dict):
        return fault("json: no object", type(told).__name__)
    found.rows.append(_raw_row(told, number, key, pictures, options))
    found.places.append(places | {"shard": found.shard, "key": key, "row": number, "offset": offset})
    found.suffixes.update((*texts, *pictures))


def _raw_row(told: dict[str, Any], number: int, key: str, pictures: Sequence[str], options: CatalogOptions) -> RawRow:
    columns, rules = options.columns, options.rules

    def text(names: Sequence[str], rule_names: Sequence[str] = ()) -> str:
        cells = (cell_text(told[name]) for name in names if name in told)
        return apply_rules(rule_names, next(filter(None, cells), ""))

    return RawRow(
        row=number,
        code=text(columns.product_code) or key,
        title=text(columns.title, rules.title),
        category=text(columns.category, rules.category),
        price=text(columns.price, rules.price),
        currency=text(columns.currency) if columns.currency else options.currency or "",
        pictures=tuple(pictures),
        further={name: text((column,), rules.further) for name, column in columns.further.items()},
    )


def _natural(suffix: str) -> list[tuple[int, str]]:
    """2.jpg stands before 10.jpg."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", suffix)]


def _at(offset: int, key: str, value: object) -> str:
    return f"byte {offset}, key {key}" + (f": {value}" if str(value) else "")


def _placed(reject: Reject, shard: str, place: dict[str, Any]) -> Reject:
    value = _at(place["offset"], place["key"], reject.value)
    return Reject(shard, reject.row, reject.product_code, reject.reason, value)


def _write(
    folder: Path,
    found: Sequence[AdoptedTar],
    usable: dict[int, Product],
    splits: dict[int, str],
    unusable: list[Reject],
    described: dict[str, Any],
) -> None:
    """Write rejects and index, and the manifest last."""
    parts, facts = [], []
    for tar in found:
        rows = [_index_row(place, usable[place["row"]], splits[place["row"]])
                for place in tar.places if place["row"] in usable]  # fmt: skip
        parts.append(pa.Table.from_pylist(rows, schema=SHARD_SCHEMA))
        held = {row["split"] for row in rows}
        split = held.pop() if len(held) == 1 else "both"
        told = {"split": split, "samples": len(rows), "members": sorted(tar.suffixes)}
        facts.append(describe_file(folder, tar.shard) | told)
    write_rejects(folder, unusable)
    write_index(folder, parts)
    described |= {"table": "tar files", "rows": len(usable) + len(unusable), "fingerprint": "", "table_sha256": ""}
    manifest = build_manifest(folder, facts, count_reasons(unusable), described)
    del manifest["features"]  # the JSON's fields are its maker's
    counts = dict.fromkeys(SPLITS, 0) | Counter(splits.values())
    write_json(folder / MANIFEST_NAME, manifest | {"counts": counts})


def _index_row(place: dict[str, Any], product: Product, split: str) -> dict[str, Any]:
    return {name: place[name] for name in _PLACES.names} | {
        "split": split,
        "product_code": product.code,
        "title": product.title,
        "category": product.category,
        "price": product.price,
        "currency": product.currency,
        "further": json.dumps(product.further, sort_keys=True, ensure_ascii=False),
    }
