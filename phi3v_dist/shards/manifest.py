"""The manifest: what a shard folder holds, what it was made from, and whether it is whole.

Enters: the facts of finished files. Leaves: ``manifest.json``, and after reading it back a plain dictionary. It is
written last, so a folder is a shard folder if and only if it is there; ``read_manifest`` alone decides that.

::

    FOLDER/
      train/train-000000.tar …     KEY.00.jpg, KEY.01.png, … (the original bytes), KEY.json
      heldout/heldout-000000.tar …
      index.parquet                one row per sample (shards/index.py)
      rejects.parquet              one row per rejected product (catalog/rejects.py)
      pictures.parquet             hash and fingerprint of each checked picture, for later deliveries (delivery.py)
      manifest.json                last; it names these three, which after later deliveries are index-001.parquet, …
"""

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from phi3v_dist import __version__
from phi3v_dist.catalog.fetched import STATE_NAME
from phi3v_dist.catalog.tables import table_sha256 as hash_table
from phi3v_dist.config.options import CatalogOptions, ShardOptions
from phi3v_dist.errors import ShardError
from phi3v_dist.files import sha256_of, xxh3_of

SCHEMA_VERSION = 5  # 2: several pictures, further texts; 3: deliveries; 4, 5: checksums by XXH3
SPLITS = ("train", "heldout")
MANIFEST_NAME = "manifest.json"
MAKE_THEM = "Make the shards: python tools/make_shards.py --config RECIPE"
MAKE_ANEW = "Delete the folder and make it anew: python tools/make_shards.py --config RECIPE"

# Where the input lies and how fast it is read don't change what is written.
_OPTIONS_WITHOUT_EFFECT = {"table", "max_reject_share", "fetched_folder"}

_TEXT = {"dtype": "string", "_type": "Value"}
_JSON_FEATURES = dict.fromkeys(("category", "currency", "product_code", "title"), _TEXT) | {
    "price": {"dtype": "float64", "_type": "Value"}
}


def describe_input(catalog: CatalogOptions, shards: ShardOptions) -> dict[str, Any]:
    """Table name and hash, the options that decide the shards' content, and one ``fingerprint`` over them.

    Pictures are not hashed: to know that nothing changed must cost seconds, not a pass over all bytes.
    Raises ``CatalogError`` when the table can't be read.
    """
    table_sha256 = hash_table(catalog)
    options = catalog.model_dump(mode="json", exclude=_OPTIONS_WITHOUT_EFFECT)
    options["samples_per_shard"] = shards.samples_per_shard
    fetched = Path(catalog.fetched_folder) / STATE_NAME
    options["fetched_pictures"] = sha256_of(fetched) if fetched.exists() else ""
    told = {"schema_version": SCHEMA_VERSION, "table_sha256": table_sha256, "options": options}
    fingerprint = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    name = Path(catalog.table).name
    return {"table": name, "table_sha256": table_sha256, "options": options, "fingerprint": fingerprint}


def file_name(kind: str, delivery: int) -> str:
    """Name of the index, rejects or pictures after a delivery, which are numbered from 0."""
    return f"{kind}-{delivery:03d}.parquet" if delivery else f"{kind}.parquet"


def build_manifest(
    folder: Path,
    names: dict[str, str],
    shards: list[dict[str, Any]],
    reasons: dict[str, int],
    described: dict[str, Any],
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of finished files. Neither time nor workers are in it: the same input gives the same bytes.

    ``names``: of index, rejects and pictures; ``shards``: ``describe_file`` of each new tar file with its split,
    samples and members; ``reasons``: rejects by reason; ``described``: from ``describe_input``, with what is known
    of the whole delivery; ``before``: the manifest of earlier deliveries.
    """
    shards = [*(before["shards"] if before else []), *shards]
    deliveries = [*(before["deliveries"] if before else []), described]
    further = {name for delivery in deliveries for name in delivery["options"]["columns"]["further"]}
    counts = {split: sum(shard["samples"] for shard in shards if shard["split"] == split) for split in SPLITS}
    return {
        "schema_version": SCHEMA_VERSION,
        "counts": counts,
        "shards": shards,
        "index": describe_file(folder, names["index"]),
        "rejects": describe_file(folder, names["rejects"]) | {"count": sum(reasons.values()), "by_reason": reasons},
        "pictures": describe_file(folder, names["pictures"]),
        "deliveries": deliveries,
        "features": _features(shards, further),
        "made_with": _made_with(),
    }


def _features(shards: list[dict[str, Any]], further: Iterable[str]) -> dict[str, Any]:
    """What ``datasets.Features.from_dict`` takes: all members that occur in any sample.

    ``datasets`` guesses them from the first five samples and fails where a later one differs (a PNG after five
    JPEGs), so the whole truth travels with the shards.
    """
    members = sorted({member for shard in shards for member in shard["members"]} - {"json"})
    pictures = {member: {"_type": "Image"} for member in members}
    told = _JSON_FEATURES | {"further": dict.fromkeys(sorted(further), _TEXT)}
    return {"json": told, **pictures, "__key__": _TEXT, "__url__": _TEXT}


def _made_with() -> dict[str, str]:
    """Versions of everything that had a hand in the bytes."""
    parts = {name: version(name) for name in ("pyarrow", "pillow")}
    return {"phi3v_dist": __version__, "python": platform.python_version(), **parts}


def unchecked_deliveries(manifest: dict[str, Any]) -> str:
    """What a person should know of deliveries whose pictures weren't checked; empty where all were."""
    told = manifest.get("deliveries", [])
    tables = [delivery["table"] for delivery in told if not delivery["options"].get("check_pictures", True)]
    if not tables:
        return ""
    return (
        f"pictures of {', '.join(tables)} were never decoded (catalog.check_pictures: false): some may be damaged, "
        "or show the same on both sides of the split"
    )


def describe_file(folder: Path, name: str) -> dict[str, Any]:
    """Path relative to ``folder``, bytes and XXH3-128 of one finished file."""
    return {"path": name, "bytes": (folder / name).stat().st_size, "xxh3_128": xxh3_of(folder / name)}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a shard folder. Raises ``ShardError`` when it is missing, unreadable or of another schema."""
    path = folder / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError("no shards here, manifest.json is missing", where=str(folder), mend=MAKE_THEM) from None
    except (OSError, ValueError) as error:
        raise ShardError(f"the manifest can't be read ({error})", where=str(path), mend=MAKE_ANEW) from None
    found = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if found != SCHEMA_VERSION:
        raise ShardError(f"schema_version must be {SCHEMA_VERSION}", where=str(path), value=found, mend=MAKE_ANEW)
    return manifest
