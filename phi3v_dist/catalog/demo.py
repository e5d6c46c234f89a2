"""The demo catalogue: drawn products whose title, category and price follow from what the picture shows.

Enters: a number of products and a seed. Leaves: ``products.csv`` (columns of the DBQ Burberry table), ``images/``, and
``demo_catalog.json`` with the parameters. A model that looks can answer, one that doesn't can't; a few rows are broken
on purpose. What a product is depends on (seed, number) alone, so a longer catalogue begins with the shorter one.
``products.csv`` is written last: while it is missing, the catalogue isn't finished.
"""

import csv
import io
import json
import math
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from phi3v_dist.catalog import demo_shapes
from phi3v_dist.catalog.demo_shapes import Colour, Scene, draw_scene
from phi3v_dist.console import progress
from phi3v_dist.errors import CatalogError
from phi3v_dist.files import sha256_of, write_json, write_text


@dataclass(frozen=True)
class Kind:
    """A category: its word in titles, frame width ÷ height, base price, and the edge that a trim lies along."""

    noun: str
    aspect: float
    price: float
    trim_edge: str


KINDS = {
    "TIES": Kind("Tie", 0.36, 105, "bottom"),
    "SCARVES": Kind("Scarf", 0.44, 300, "bottom"),
    "TROUSERS": Kind("Trousers", 0.54, 560, "top"),
    "DRESSES": Kind("Dress", 0.66, 1150, "bottom"),
    "UMBRELLAS": Kind("Umbrella", 0.80, 65, "bottom"),
    "BOOTS": Kind("Boot", 0.95, 780, "top"),
    "BAGS": Kind("Bag", 1.12, 1600, "bottom"),
    "SHIRTS": Kind("Shirt", 1.35, 150, "bottom"),
    "HATS": Kind("Hat", 1.65, 50, "bottom"),
    "SHOES": Kind("Shoe", 2.0, 420, "bottom"),
    "SUNGLASSES": Kind("Sunglasses", 2.4, 210, "top"),
    "BELTS": Kind("Belt", 2.8, 80, "left"),
}
COLOURS: dict[str, Colour] = {
    "Navy": (20, 28, 120),
    "Red": (185, 15, 35),
    "Green": (10, 120, 40),
    "Purple": (95, 25, 150),
    "Brown": (95, 50, 22),
    "Teal": (0, 118, 130),
    "Magenta": (205, 20, 130),
    "Orange": (222, 88, 0),
}
SIZES = {"Small": (0.54, 0.72), "Medium": (0.74, 1.0), "Large": (0.96, 1.38)}  # share of the frame, price factor
PATTERNS = {"plain": (0.0, 1.0), "striped": (0.58, 1.1), "dotted": (0.75, 1.2)}  # share of white in the tint, factor
# Each trim's colour is one that no product and no tint comes near. Silver and black were tried: a small vision tower
# took grey for a lit or tinted part (77 % right after 500 probe steps, black 94 %, aqua 99 %).
TRIMS: dict[str, tuple[Colour | None, float]] = {
    "none": (None, 1.0),
    "Aqua": ((40, 210, 235), 1.2),
    "Gold": ((226, 176, 40), 1.4),
}
TRIM_AREA = 0.28  # least share of the silhouette that a trim covers
PRICE_NOISE = 0.03  # of the logarithm
ASPECT_NOISE = 0.1  # of the logarithm; frames stay within 1:3 and 3:1
SIZE_NOISE = 0.015  # largest change of a size's share of the frame
OFF_CENTRE = 0.015  # largest shift of the product (share of the frame)
BACKGROUND = (238, 253)  # darkest and lightest channel
USUAL_SIDES = (150, 420)  # pixels; slim frames are longer, so that no side is below the first
LARGE_SIDES, LARGE_SHARE = (700, 1400), 0.02
PNG_SHARE = 0.3
FAULT_EVERY = 65  # every so many products one is broken, with the next fault of the list
FAULTS = (
    "missing picture",
    "price is text",
    "truncated picture",
    "empty title",
    "text as picture",
    "duplicate code",
    "price not above zero",
    "tiny picture",
)
HEADER = (
    "product_code",
    "title",
    "category3_code",
    "full_price",
    "currency_code",
    "imageurl",
    "local_image_path",
)
_FIRST_CODE = 80_000_000


@dataclass(frozen=True)
class Look:
    """What is seen on a product, in the words of its title."""

    kind: str
    colour: str
    size: str
    pattern: str
    trim: str


def title_of(look: Look) -> str:
    """The title that a look deserves, such as ``Large Navy Striped Scarf with Gold Trim``."""
    pattern = "" if look.pattern == "plain" else f" {look.pattern.capitalize()}"
    trim = "" if look.trim == "none" else f" with {look.trim} Trim"
    return f"{look.size} {look.colour}{pattern} {KINDS[look.kind].noun}{trim}"


def price_of(look: Look) -> float:
    """The price that a look deserves, before noise."""
    return KINDS[look.kind].price * SIZES[look.size][1] * PATTERNS[look.pattern][1] * TRIMS[look.trim][1]


def draw_product(seed: int, number: int) -> tuple[Look, int, Image.Image]:
    """Draw a product. Returns its look, its price with noise, and its picture."""
    dice = _dice(seed, number)
    look = Look(*(dice.choice(list(words)) for words in (KINDS, COLOURS, SIZES, PATTERNS, TRIMS)))
    price = round(price_of(look) * math.exp(dice.gauss(0, PRICE_NOISE)))
    return look, price, draw_scene(_scene_of(look, dice))


def make_demo_catalog(folder: Path, products: int, seed: int, workers: int = 2) -> bool:
    """Draw the catalogue into ``folder``. Returns False if it was already there with the same parameters.

    Raises ``CatalogError`` if the folder can't be made or holds a product table that isn't ours.
    """
    if products < 1:
        raise CatalogError("at least one product is drawn", where="--products", value=products, mend="Give more.")
    table, note = folder / "products.csv", folder / "demo_catalog.json"
    drawing = [sha256_of(Path(source)) for source in (__file__, demo_shapes.__file__)]
    parameters = {"products": products, "seed": seed, "drawing": drawing}
    if table.exists():
        if not note.exists():
            raise CatalogError("is a product table of your own", where=str(table), mend="Name another folder.")
        if json.loads(note.read_text(encoding="utf-8")) == parameters:
            return False
        table.unlink()
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the catalogue's folder can't be made: {error.strerror}"
        raise CatalogError(what, where=str(folder), mend="Name another folder.") from None
    rows = list(_draw_all(folder, products, seed, workers))
    write_json(note, parameters)
    _write_table(table, rows)
    return True


def _draw_all(folder: Path, products: int, seed: int, workers: int) -> Iterator[tuple[str, ...]]:
    """Rows of all products, pictures written beside. Children are spawned: a fork would copy the caller's threads."""
    save = partial(_save_product, folder, seed)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        rows = pool.map(save, range(products), chunksize=16)
        yield from progress(rows, "drawing products", products)


def _save_product(folder: Path, seed: int, number: int) -> tuple[str, ...]:
    """Draw a product, write its picture, return its row in the order of ``HEADER``."""
    look, price, picture = draw_product(seed, number)
    dice = _dice(seed, number, "file")
    suffix = "png" if dice.random() < PNG_SHARE else "jpg"
    code = str(_FIRST_CODE + number)
    path = f"images/{code}.{suffix}"
    row = (code, title_of(look), look.kind, str(price), "EUR", f"https://shop.example.invalid/{path}", path)
    data = _encoded(picture, suffix, quality=dice.randint(85, 92))
    fault = fault_of(number)
    if fault is not None:
        row, data = _broken(row, data, picture, fault)
    if data is not None:
        (folder / path).write_bytes(data)
    else:
        (folder / path).unlink(missing_ok=True)
    return row


def fault_of(number: int) -> str | None:
    """The fault that product ``number`` has on purpose, if any."""
    turn, rest = divmod(number, FAULT_EVERY)
    return FAULTS[turn % len(FAULTS)] if rest == FAULT_EVERY - 1 else None


def _broken(
    row: tuple[str, ...], data: bytes, picture: Image.Image, fault: str
) -> tuple[tuple[str, ...], bytes | None]:
    """The same row and picture with one fault of ``FAULTS``."""
    code, title, kind, price, *rest = row
    pictures = {
        "missing picture": None,
        "truncated picture": data[: len(data) // 2],
        "text as picture": b"<html><body>404 Not Found</body></html>\n",
        "tiny picture": _encoded(picture.resize((8, 8)), row[-1].rpartition(".")[2], quality=90),
    }
    cells = {
        "price is text": (code, title, kind, "n/a"),
        "price not above zero": (code, title, kind, "-" + price if int(code) % 2 else "0"),
        "empty title": (code, "", kind, price),
        "duplicate code": (str(int(code) - 1), title, kind, price),
    }
    return (*cells.get(fault, (code, title, kind, price)), *rest), pictures.get(fault, data)


def _dice(seed: int, number: int, purpose: str = "look") -> random.Random:
    return random.Random(f"{seed}/{number}/{purpose}")


def _scene_of(look: Look, dice: random.Random) -> Scene:
    """Place a look in a frame: aspect follows the kind, size the look, the rest is chance."""
    kind, colour, (band, _) = KINDS[look.kind], COLOURS[look.colour], TRIMS[look.trim]
    width, height = _frame(kind.aspect, dice)
    share = SIZES[look.size][0] + dice.uniform(-SIZE_NOISE, SIZE_NOISE)
    room = min(OFF_CENTRE, (1 - share) / 2)
    left, top = ((1 - share) / 2 + dice.uniform(-room, room) for _ in "xy")
    return Scene(
        width=width,
        height=height,
        background=(dice.randint(*BACKGROUND), dice.randint(*BACKGROUND), dice.randint(*BACKGROUND)),
        kind=look.kind,
        box=(left * width, top * height, (left + share) * width, (top + share) * height),
        colour=colour,
        tint=_mixed(colour, PATTERNS[look.pattern][0]),
        pattern=look.pattern,
        upright_stripes=kind.aspect > 1.2,
        band=band,
        band_edge=kind.trim_edge,
        band_share=TRIM_AREA,
    )


def _frame(aspect: float, dice: random.Random) -> tuple[int, int]:
    """Width and height in pixels."""
    aspect = min(max(aspect * math.exp(dice.gauss(0, ASPECT_NOISE)), 1 / 3), 3.0)
    stretch = max(aspect, 1 / aspect)
    if dice.random() < LARGE_SHARE:
        long = _log_uniform(*LARGE_SIDES, dice)
    else:
        shortest = USUAL_SIDES[0] * stretch
        long = _log_uniform(shortest, max(USUAL_SIDES[1], shortest * 1.3), dice)
    return (round(long), round(long / aspect)) if aspect > 1 else (round(long * aspect), round(long))


def _log_uniform(low: float, high: float, dice: random.Random) -> float:
    return math.exp(dice.uniform(math.log(low), math.log(high)))


def _mixed(colour: Colour, white: float) -> Colour:
    red, green, blue = (round(channel + (255 - channel) * white) for channel in colour)
    return red, green, blue


def _encoded(picture: Image.Image, suffix: str, quality: int) -> bytes:
    """The picture as JPEG (4:2:0) or PNG bytes."""
    memory = io.BytesIO()
    if suffix == "png":
        picture.save(memory, "PNG")
    else:
        picture.save(memory, "JPEG", quality=quality, subsampling="4:2:0")
    return memory.getvalue()


def _write_table(path: Path, rows: list[tuple[str, ...]]) -> None:
    memory = io.StringIO()
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(rows)
    write_text(path, memory.getvalue())
