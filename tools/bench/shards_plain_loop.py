"""The peer of making shards: what one writes in an afternoon, a loop over the rows of a CSV with ``ShardWriter``.

With --checks it does to each picture what make_shards does: decodes it completely by the same function, judges it, and
takes the same hashes of what it writes. Without, it reads and writes. With --durable each tar file is
made durable.
"""

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import xxhash
from webdataset.writer import ShardWriter

from phi3v_dist.catalog.checks import Product, Reject
from phi3v_dist.catalog.picture_checks import check_pictures
from phi3v_dist.catalog.pictures import Picture
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.console import CommandParser, run_command
from phi3v_dist.files import fsync_file
from phi3v_dist.shards.index import checksum

_OPTIONS = CatalogOptions()
_FROM_TABLE = ("product_code", "title")


def main() -> None:
    """Write the shards and print the seconds of the loop alone: importing webdataset imports torch."""
    parser = CommandParser(
        description=__doc__,
        epilog="example:\n  python tools/bench/shards_plain_loop.py --checks runs/demo/catalog/products.csv runs/loop",
    )
    parser.add_argument("table", type=Path, help="CSV; picture paths start from its folder")
    parser.add_argument("folder", type=Path, help="where tar files are written")
    parser.add_argument("--checks", action="store_true", help="decode, judge and hash each picture")
    parser.add_argument("--durable", action="store_true", help="each tar file survives a power cut")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    started = time.monotonic()
    _write(arguments)
    print(time.monotonic() - started)


def _write(arguments: argparse.Namespace) -> None:
    post = (lambda name: fsync_file(Path(name))) if arguments.durable else None
    pattern = str(arguments.folder / "%06d.tar")
    with (
        open(arguments.table, newline="", encoding="utf-8") as handle,
        ShardWriter(pattern, maxcount=1000, encoder=False, mtime=0, verbose=0, post=post) as writer,
    ):
        for number, row in enumerate(csv.DictReader(handle)):
            path = arguments.table.parent / row["local_image_path"]
            picture = _checked(number, row, path) if arguments.checks else path.read_bytes()
            told = {name: row[name] for name in _FROM_TABLE}
            told |= {"category": row["category3_code"], "currency": row["currency_code"]}
            content = json.dumps(told | {"price": float(row["full_price"])}).encode()
            if arguments.checks:
                xxhash.xxh3_128_digest(picture)
                xxhash.xxh3_128_digest(content + picture)
                checksum([content, picture])
            writer.write({"__key__": row["product_code"], "00.jpg": picture, "json": content})


def _checked(number: int, row: dict[str, Any], path: Path) -> bytes:
    content = path.read_bytes()
    product = Product(number, row["product_code"], row["title"], "", 1.0, "EUR", (Picture(content),))
    found = check_pictures(product, _OPTIONS)
    assert not isinstance(found, Reject), found
    return content


if __name__ == "__main__":
    sys.exit(run_command(main))
