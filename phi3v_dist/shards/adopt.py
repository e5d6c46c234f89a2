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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phi3v_dist.catalog.cells import cell_text
from phi3v_dist.catalog.checks import DUPLICATE, OTHER_CURRENCY, Reject, check_row
from phi3v_dist.catalog.pictures import Picture
from phi3v_dist.catalog.rejects import count_reasons, rejects_table
from phi3v_dist.catalog.rules import apply_rules
from phi3v_dist.catalog.split import split_of
from phi3v_dist.catalog.tables import RawRow
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.console import progress
from phi3v_dist.errors import ShardError
from phi3v_dist.files import atomic_path, write_json
from phi3v_dist.images import ImageError, read_header
from phi3v_dist.shards.index import SHARD_SCHEMA, content_of, member_columns, samples_of, write_index
from phi3v_dist.shards.manifest import MANIFEST_NAME, SCHEMA_VERSION, SPLITS, describe_file, file_name

SplitBy = Literal["folder", "code"]

_SPLIT_FOLDERS = {"train": "train"} | dict.fromkeys(("heldout", "val", "valid", "validation", "test"), "heldout")
_PLACE = re.compile(r"byte ([0-9]+), key ")  # as _refuse writes it
_PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "tif", "tiff", "bmp", "avif")


@dataclass(frozen=True)
class Adoption:
    """What came of it. ``unusable``: rejects whose ``value`` names offset and key. ``written``: False, and nothing
    was, where there are any and the caller doesn't skip them.
    """

    counts: dict[str, int]
    unusable: list[Reject]
    split_by: SplitBy
    written: bool


class _Unusable(Exception):
    """A sample that can't be used: reason and value."""


@dataclass
class _Found:
    """What the tar files hold: rows of the index with their sample's number in ``row``, and what has no use."""

    options: CatalogOptions
    split_by: SplitBy
    parts: dict[str, pa.Table] = field(default_factory=dict)  # by tar file
    suffixes: dict[str, set[str]] = field(default_factory=dict)
    unusable: list[Reject] = field(default_factory=list)
    codes: dict[str, str] = field(default_factory=dict)  # code → where it was first
    number: int = 0  # of samples seen

    def read(self, folder: Path, shard: str) -> None:
        """Take in a tar file."""
        rows: list[dict[str, Any]] = []
        self.suffixes[shard] = set()
        try:
            with tarfile.open(folder / shard, "r:") as tar:  # in a compressed one offsets would mean nothing
                for key, members in samples_of(tar):
                    self.number += 1
                    offset = min(member.offset_data for member in members.values())
                    try:
                        rows.append(self._row(tar, shard, key, members))
                    except _Unusable as fault:
                        self._refuse(shard, offset, key, *fault.args)
        except (tarfile.TarError, OSError) as error:
            self.unusable.append(Reject(shard, self.number, "", "tar: can't be read", str(error)))
        self.parts[shard] = pa.Table.from_pylist(rows, schema=SHARD_SCHEMA)

    def keep_one_currency(self) -> None:
        """Refuse prices in another currency than the recipe's, or than most have."""
        counts = Counter(name for part in self.parts.values() for name in part["currency"].to_pylist())
        currency = self.options.currency or (counts.most_common(1)[0][0] if counts else "")
        if self.options.policy.other_currency != "reject":
            return
        for shard, part in self.parts.items():
            right = pc.equal(part["currency"], currency)
            for row in part.filter(pc.invert(right)).to_pylist():
                value = f"{row['currency']}, expected {currency}"
                self._refuse(shard, min(row["json_offset"], *row["image_offset"]), row["key"], OTHER_CURRENCY, value)
            self.parts[shard] = part.filter(right)

    def _refuse(self, shard: str, offset: int, key: str, reason: str, value: object) -> None:
        told = f"byte {offset}, key {key}" + (f": {value}" if str(value) else "")
        self.unusable.append(Reject(shard, self.number, "", reason, told))

    def _row(self, tar: tarfile.TarFile, shard: str, key: str, members: dict[str, tarfile.TarInfo]) -> dict[str, Any]:
        """A sample's row of the index. Raises ``_Unusable``."""
        text, pictures = _members(members)
        try:
            named = [members[suffix] for suffix in (text, *pictures)]
            contents = [content_of(tar, member) for member in named]
            sizes = [read_header(content).size for content in contents[1:]]
            places = member_columns([member.offset_data for member in named], contents, sizes)
            told = json.loads(contents[0])
        except ImageError as error:
            raise _Unusable(f"picture: {error.reason}", ", ".join(pictures)) from None
        except ValueError as error:
            raise _Unusable("json: can't be read", error) from None
        if not isinstance(told, dict):
            raise _Unusable("json: no object", type(told).__name__)
        raw = _raw_row(told, self.number, key, pictures, self.options)
        options = self.options.model_copy(update={"max_pictures": len(pictures)})  # the tar files are as they are
        product = check_row(raw, options, lambda cell: Picture(str(cell)))
        if isinstance(product, Reject):
            raise _Unusable(product.reason, product.value)
        if (first := self.codes.setdefault(product.code, f"{shard}, key {key}")) != f"{shard}, key {key}":
            raise _Unusable(DUPLICATE, f"{product.code}, also in {first}")
        self.suffixes[shard].update((text, *pictures))
        by_folder = self.split_by == "folder"
        return places | {
            "shard": shard,
            "key": key,
            "split": _split_folder(shard) if by_folder else split_of(product.code, self.options.heldout_share),
            "product_code": product.code,
            "title": product.title,
            "category": product.category,
            "price": product.price,
            "currency": product.currency,
            "further": json.dumps(product.further, sort_keys=True, ensure_ascii=False),
        }


def adopt_tars(folder: str | Path, options: CatalogOptions, split_by: SplitBy | None, *, skip: bool) -> Adoption:
    """Index all tar files below ``folder``. ``split_by`` None: by folder where all lie in ones that name a split.

    ``skip``: leave out what can't be used and write the rest. Raises ``ShardError``.
    """
    folder = Path(folder).absolute()
    shards = _tars(folder)
    split_by = split_by or ("folder" if all(map(_split_folder, shards)) else "code")
    for shard in shards:
        if split_by == "folder" and _split_folder(shard) is None:
            raise ShardError("lies in no folder that names a split", where=str(folder / shard),
                             mend=f"Name it one of {', '.join(_SPLIT_FOLDERS)}, or split by code.")  # fmt: skip
    found = _Found(options, split_by)
    for shard in progress(shards, "reading tar files", len(shards)):
        found.read(folder, shard)
    found.keep_one_currency()
    splits = [name for part in found.parts.values() for name in part["split"].to_pylist()]
    written = bool(splits) and (skip or not found.unusable)
    counts = {split: splits.count(split) for split in SPLITS}
    if written:
        _write(folder, found, counts)
    return Adoption(counts, found.unusable, split_by, written)


def unusable_pictures(folder: Path, shard: str, told: str) -> list[bytes]:
    """Pictures of a sample that could not be used, read again where ``value`` of its reject says that it lies.

    None where the sample has none, or the reject is of a whole tar file. Raises ``OSError`` and ``tarfile.TarError``.
    """
    place = _PLACE.match(told)
    if place is None:
        return []
    with open(folder / shard, "rb") as handle:
        handle.seek(int(place[1]) - tarfile.BLOCKSIZE)  # the header of the sample's first member
        with tarfile.open(fileobj=handle, mode="r:") as tar:
            _, members = next(samples_of(tar), ("", {}))
            named = sorted((suffix for suffix in members if suffix.rpartition(".")[2] in _PICTURES), key=_natural)
            return [content_of(tar, members[suffix]) for suffix in named]


def _tars(folder: Path) -> list[str]:
    if (folder / MANIFEST_NAME).exists():
        mend = f"To make it anew, delete {MANIFEST_NAME} first."
        raise ShardError("has an index already", where=str(folder), mend=mend)
    shards = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tar") if path.is_file())
    if not shards:
        raise ShardError("no *.tar below this folder", where=str(folder), mend="Name the folder of the tar files.")
    return shards


def _split_folder(shard: str) -> str | None:
    first, slash, _ = shard.partition("/")
    return _SPLIT_FOLDERS.get(first) if slash else None


def _members(members: dict[str, tarfile.TarInfo]) -> tuple[str, list[str]]:
    """Suffix of the JSON and of each picture, in order. Raises ``_Unusable``."""
    texts = [suffix for suffix in members if suffix.rpartition(".")[2] == "json"]
    pictures = [suffix for suffix in members if suffix.rpartition(".")[2] in _PICTURES]
    if len(texts) != 1:
        raise _Unusable("json: more than one" if texts else "json: missing", ", ".join(sorted(members)))
    if not pictures:
        raise _Unusable("picture: missing", ", ".join(sorted(members)))
    return texts[0], sorted(pictures, key=_natural)


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


def _write(folder: Path, found: _Found, counts: dict[str, int]) -> None:
    """Write rejects and index, and the manifest last."""
    names = {kind: file_name(kind, 0) for kind in ("index", "rejects")}
    rejects = rejects_table(found.unusable)
    with atomic_path(folder / names["rejects"]) as temporary:
        pq.write_table(rejects, temporary, compression="zstd")
    write_index(folder / names["index"], found.parts.values())
    facts = []
    for shard, part in found.parts.items():
        held = part["split"].unique().to_pylist()
        told = {"split": held[0] if len(held) == 1 else "both", "samples": len(part)}
        facts.append(describe_file(folder, shard) | told | {"members": sorted(found.suffixes[shard])})
    reasons = count_reasons(rejects)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "counts": counts,
        "shards": facts,
        "index": describe_file(folder, names["index"]),
        "rejects": describe_file(folder, names["rejects"]) | {"count": len(rejects), "by_reason": reasons},
        "adopted": {"rows": found.number, "split_by": found.split_by, "options": found.options.model_dump(mode="json")},
    }
    write_json(folder / MANIFEST_NAME, manifest)
