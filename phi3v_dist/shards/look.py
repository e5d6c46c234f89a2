"""Samples for a person's eyes: one with all its fields, its pictures as files, many as one picture.

Enters: a reader and sample numbers. Leaves: lines for the console, files under the pictures' own kinds, a PNG. A
damaged sample is a ``ShardError`` where one was asked for, and a grey square in the grid.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from phi3v_dist.errors import ShardError
from phi3v_dist.files import atomic_path
from phi3v_dist.images import FORMATS, ImageError, open_image
from phi3v_dist.shards.index import ShardIndex
from phi3v_dist.shards.read import DamagedSample, Sample, ShardReader

_SIDE, _GAP = 160, 6  # pixels of a square of the grid
_GREY, _WHITE, _RED = (128, 128, 128), (255, 255, 255), (190, 30, 30)
_MOST_SQUARES = 100
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}


def number_of(index: ShardIndex, number: int | None, key: str | None) -> int:
    """The sample with this number, key or product code. Raises ``ShardError`` where there is none."""
    if number is not None:
        if not 0 <= number < len(index):
            mend = f"The folder holds samples 0 to {len(index) - 1}."
            raise ShardError("no such sample", where=str(index.folder), value=number, mend=mend)
        return number
    for name in ("key", "product_code"):
        if (found := pc.index(index.array(name), key).as_py()) >= 0:
            return found
    raise ShardError("no sample has this key or product code", where=str(index.folder), value=key,
                     mend="Keys are in the column key of the index, codes in product_code.")  # fmt: skip


def read_sample(reader: ShardReader, number: int) -> Sample:
    """The sample. Raises ``ShardError`` where it is damaged."""
    try:
        return reader.sample(number)
    except DamagedSample as damage:
        mend = "Training would put a blank document in its place. Copy the tar file anew, or make the shards anew."
        raise ShardError(f"sample {number} is damaged: {damage}", where=str(reader.index.folder), mend=mend) from None


def sample_rows(reader: ShardReader, sample: Sample) -> list[tuple[str, str]]:
    """(field, what it says) of a sample: its texts, its place, its pictures."""
    row = reader.index.row(sample.number)
    price = f"{sample.price:g} {sample.currency}".strip()
    texts = [("product code", sample.product_code), ("title", sample.title), ("category", sample.category)]
    texts += [("price", price), *((f"further, {name}", text) for name, text in sample.further.items())]
    pictures = [
        (f"picture {number}", f"{width} × {height} pixels, {len(content):,} bytes, {_suffix(content)}")
        for number, (content, (width, height)) in enumerate(
            zip(sample.images, reader.index.sizes(sample.number), strict=True)
        )
    ]
    place = f"{row['shard']}, byte {min(row['json_offset'], *row['image_offset'])}"
    return [("sample", str(sample.number)), ("split", row["split"]), *texts, ("key", sample.key), ("place", place),
            *pictures, ("XXH3", f"{row['xxh3']:016x}")]  # fmt: skip


def save_pictures(sample: Sample, folder: str | Path) -> list[Path]:
    """Write a sample's pictures, the bytes as they are; their paths."""
    paths = []
    for number, content in enumerate(sample.images):
        name = sample.key.replace("/", "_")  # a key may name folders
        paths.append(Path(folder) / f"{name}.{number:02d}.{_suffix(content)}")
        with atomic_path(paths[-1]) as temporary:
            temporary.write_bytes(content)
    return paths


def _suffix(content: bytes) -> str:
    try:
        kind = Image.open(io.BytesIO(content), formats=FORMATS).format or "bin"
    except OSError:
        kind = "bin"
    return _SUFFIXES.get(kind, kind.lower())


def spread(index: ShardIndex, most: int = _MOST_SQUARES) -> list[int]:
    """At most ``most`` sample numbers, evenly over all."""
    return np.unique(np.linspace(0, len(index) - 1, min(most, len(index))).round().astype(np.int64)).tolist()


def write_grid(reader: ShardReader, numbers: Sequence[int], path: str | Path) -> list[str]:
    """Write the first picture of each sample with its number as one PNG; the damages, empty when all is well."""
    damages = []
    columns = max(1, math.ceil(math.sqrt(len(numbers))))
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (_GAP + step * columns, _GAP + step * max(1, -(-len(numbers) // columns))), _WHITE)
    drawing = ImageDraw.Draw(sheet)
    for place, (number, sample) in enumerate(zip(numbers, reader.samples(numbers), strict=True)):
        left, top = _GAP + step * (place % columns), _GAP + step * (place // columns)
        try:
            if isinstance(sample, DamagedSample):
                damages.append(str(sample))
                raise ImageError("damaged")
            picture = open_image(sample.images[0])
            picture.thumbnail((_SIDE, _SIDE))
            sheet.paste(picture, (left + (_SIDE - picture.width) // 2, top + (_SIDE - picture.height) // 2))
        except ImageError as error:
            drawing.rectangle((left, top, left + _SIDE, top + _SIDE), fill=_GREY)
            drawing.text((left + 8, top + _SIDE // 2), error.reason, fill=_WHITE)
        drawing.text((left + 2, top + 1), str(number), fill=_RED)
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")
    return damages
