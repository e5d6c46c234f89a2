"""Damaged pictures and damaged tables through check and pack: nothing but products, rejects, or one line for a person.

The work is that of make_shards in this process: starting workers 200 times would cost minutes.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from phi3v_dist.config.options import CatalogOptions, PolicyOptions, ShardOptions
from phi3v_dist.errors import CatalogError
from phi3v_dist.images import open_image
from phi3v_dist.shards import write
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.shards.verify import verify_shards
from phi3v_dist.shards.write import ShardSummary, make_shards

NUM_PICTURES, NUM_TABLES = 500, 200
COLUMNS = ["product_code", "title", "category3_code", "full_price", "currency_code", "local_image_path"]


class InThisProcess:
    """Does the pieces of work one after the other."""

    def finish(self, work: Callable[[int], None], total: int, unfinished: Callable[[], list[int]], what: str) -> None:
        for piece in unfinished():
            work(piece)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch) -> None:
    @contextmanager
    def pool(count: int, part: object, module: str) -> Iterator[InThisProcess]:
        yield InThisProcess()

    monkeypatch.setattr(write, "worker_pool", pool)


def packed(catalog: CatalogOptions, folder: Path) -> ShardSummary:
    """Make shards, and hold them to what they say of themselves."""
    summary = make_shards(catalog, ShardOptions(folder=str(folder), samples_per_shard=64, workers=1))
    assert sum(summary.counts.values()) + summary.num_rejects == summary.num_rows
    assert verify_shards(folder) == []
    return summary


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The bytes, cut, flipped, holed, or with others put in."""
    data, length = bytearray(content), len(content)
    place = draw.randrange(length)
    match draw.randrange(7):
        case 0:
            return bytes(data[:place])
        case 1:
            return bytes(data[place:])
        case 2:
            for _ in range(draw.randrange(1, 9)):
                data[draw.randrange(length)] ^= 1 << draw.randrange(8)
        case 3:
            data[place : place + 64] = bytes(len(data[place : place + 64]))
        case 4:
            data[place:place] = draw.randbytes(draw.randrange(1, 100))
        case 5:
            other = draw.randrange(length)
            data[place : place + 50], data[other : other + 50] = data[other : other + 50], data[place : place + 50]
        case 6:
            data[: draw.randrange(1, 40)] = draw.randbytes(8)
    return bytes(data)


def pictures() -> list[bytes]:
    """A picture in every format that is read, and kinds of JPEG and PNG."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC)
    alpha = Image.merge("RGBA", (*picture.split(), picture.getchannel(0)))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict]] = [
        (picture, "JPEG", {}),
        (picture, "JPEG", {"progressive": True, "exif": exif}),
        (picture.convert("CMYK"), "JPEG", {}),
        (picture.convert("L"), "JPEG", {}),
        (alpha, "PNG", {}),
        (picture.convert("P"), "PNG", {}),
        (alpha, "WEBP", {}),
        (picture, "GIF", {"save_all": True, "append_images": [picture.rotate(90)]}),
        (picture, "TIFF", {"compression": "tiff_lzw"}),
        (picture, "BMP", {}),
        (picture, "AVIF", {}),
    ]
    contents = []
    for kind, form, how in kinds:
        memory = io.BytesIO()
        kind.save(memory, form, **how)
        contents.append(memory.getvalue())
    return contents


@pytest.mark.parametrize("policy", [PolicyOptions(), PolicyOptions(damaged_inside="keep", animated="repair")])
def test_500_damaged_pictures_are_products_or_rejects_and_products_can_be_opened(tmp_path, policy) -> None:
    draw, kinds, lines = random.Random(1), pictures(), []
    for number in range(NUM_PICTURES):
        (tmp_path / f"{number}.jpg").write_bytes(damaged(kinds[number % len(kinds)], draw))
        told = [f"P{number}", "Bag", "BAGS", 5, "EUR", f"{number}.jpg"]
        lines.append(json.dumps(dict(zip(COLUMNS, told, strict=True))))
    (tmp_path / "products.jsonl").write_text("\n".join(lines), encoding="utf-8")
    catalog = CatalogOptions(table=str(tmp_path / "products.jsonl"), policy=policy)
    summary = packed(catalog, tmp_path / "shards")
    assert summary.num_rows == NUM_PICTURES
    assert 50 < summary.num_rejects < 450
    index = load_index(tmp_path / "shards")
    reader = ShardReader(index)
    for number in range(len(index)):
        (content,) = reader.sample(number).images
        assert [open_image(content).size] == index.sizes(number)


def tables(folder: Path) -> list[tuple[str, bytes]]:
    """(ending, content) of one catalogue in every kind of table."""
    rows = [[f"0{n:03d}", f'Größe "{n}"', "Bags, Belts", f"{n}.50", "EUR", f"{n % 3}.png"] for n in range(1, 25)]
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, *rows])
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) for row in rows]
    table = pa.table(dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)))
    pq.write_table(table, folder / "made.parquet")
    with pa.ipc.new_file(folder / "made.arrow", table.schema) as writer:
        writer.write_table(table)
    return [
        ("csv", text.getvalue().encode()),
        ("tsv", "\n".join("\t".join(row) for row in [COLUMNS, *rows]).encode()),
        ("jsonl", "\n".join(lines).encode()),
        ("parquet", (folder / "made.parquet").read_bytes()),
        ("arrow", (folder / "made.arrow").read_bytes()),
    ]


def damaged_table(ending: str, content: bytes, draw: random.Random) -> bytes:
    if ending in ("parquet", "arrow") or draw.random() < 0.4:
        return damaged(content, draw)
    text, place = content.decode(), draw.randrange(len(content) - 100)
    insert = {
        "nul": "\0",
        "quotes": '"' * draw.randrange(1, 4),
        "large": "x" * 10_000_000,
        "line ends": "\r\n\r",
        "controls": "\x1b\x07\u2028",
        "braces": "}{[",
    }
    kind = draw.choice([*insert, "utf-16", "latin-1", "utf-8-sig"])
    if kind in insert:
        return (text[:place] + insert[kind] + text[place:]).encode()
    return text.encode(kind, "replace")


def test_200_damaged_tables_are_products_rejects_or_one_line(tmp_path) -> None:
    draw, kinds = random.Random(2), tables(tmp_path)
    for number, content in enumerate(pictures()[4:7]):
        (tmp_path / f"{number}.png").write_bytes(content)
    refused, made = 0, 0
    for number in range(NUM_TABLES):
        ending, content = kinds[number % len(kinds)]
        path = tmp_path / f"table.{ending}"
        path.write_bytes(damaged_table(ending, content, draw))
        catalog = CatalogOptions(table=str(path), image_root=str(tmp_path), currency="EUR")
        try:
            packed(catalog, tmp_path / f"shards-{number}")
            made += 1
        except CatalogError as error:
            assert "\n" not in str(error) and len(str(error)) < 4000
            assert str(path) in str(error)
            refused += 1
    assert min(refused, made) > 30
    assert list(tmp_path.glob(".shards-*")) == []
