"""Silhouettes, patterns and bands of the demo catalogue as data, and the drawing of one picture from them.

Enters: a kind, colours, a pattern's name, the frame. Leaves: an RGB picture. Shapes are polygons and ellipses in a unit
box (x to the right, y down), so that a kind is read off a table. Their mass lies in grossly different parts of the
box, because that is what a vision tower of a few hundred thousand parameters can tell apart (small marks it can't).
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Piece:
    """A polygon (three or more points) or an ellipse (its box's two corners); ``hole`` cuts instead of adding."""

    points: tuple[tuple[float, float], ...]
    hole: bool = False


def _rectangle(left: float, top: float, right: float, bottom: float, hole: bool = False) -> Piece:
    return Piece(((left, top), (right, top), (right, bottom), (left, bottom)), hole)


def _ellipse(left: float, top: float, right: float, bottom: float, hole: bool = False) -> Piece:
    return Piece(((left, top), (right, bottom)), hole)


SILHOUETTES: dict[str, tuple[Piece, ...]] = {
    "TIES": (
        Piece(((0.26, 0), (0.74, 0), (0.62, 0.13), (1, 0.84), (0.5, 1), (0, 0.84), (0.38, 0.13))),
        Piece(((0.3, 0.125), (0.7, 0.125), (0.68, 0.14), (0.32, 0.14)), hole=True),
    ),
    "SCARVES": (
        _rectangle(0, 0, 1, 0.88),
        *(_rectangle(step * 0.2 + 0.02, 0.87, step * 0.2 + 0.18, 1) for step in range(5)),
    ),
    "TROUSERS": (Piece(((0.1, 0), (0.9, 0), (1, 1), (0.64, 1), (0.5, 0.3), (0.36, 1), (0, 1))),),
    "DRESSES": (
        Piece(((0.24, 0), (0.76, 0), (0.66, 0.36), (1, 0.97), (0.5, 1), (0, 0.97), (0.34, 0.36))),
        _ellipse(0.36, -0.16, 0.64, 0.13, hole=True),
    ),
    "UMBRELLAS": (
        _ellipse(0, 0, 1, 1.1),
        _rectangle(0, 0.56, 1, 1.2, hole=True),
        _rectangle(0.45, 0.5, 0.55, 0.92),
        _ellipse(0.25, 0.7, 0.55, 1),
        _ellipse(0.34, 0.76, 0.45, 0.9, hole=True),
        _rectangle(0.2, 0.65, 0.445, 0.84, hole=True),
    ),
    "BOOTS": (
        Piece(((0, 0), (0.52, 0), (0.5, 0.55), (0.84, 0.66), (0.98, 0.78), (1, 0.93), (0, 0.93))),
        _rectangle(0, 0.9, 0.3, 1),
        _rectangle(0.46, 0.9, 1, 0.97),
    ),
    "BAGS": (
        _ellipse(0.18, 0, 0.82, 0.9),
        _ellipse(0.29, 0.14, 0.71, 0.9, hole=True),
        Piece(((0.06, 0.42), (0.94, 0.42), (1, 0.94), (0.95, 1), (0.05, 1), (0, 0.94))),
    ),
    "SHIRTS": (
        Piece(
            (
                *((0.32, 0), (0.68, 0), (0.82, 0.07), (1, 0.42), (0.84, 0.54), (0.75, 0.4)),
                *((0.75, 1), (0.25, 1), (0.25, 0.4), (0.16, 0.54), (0, 0.42), (0.18, 0.07)),
            )
        ),
        _ellipse(0.39, -0.14, 0.61, 0.14, hole=True),
    ),
    "HATS": (
        _ellipse(0, 0.6, 1, 1),
        _ellipse(0.25, 0, 0.75, 0.6),
        Piece(((0.25, 0.28), (0.75, 0.28), (0.79, 0.8), (0.21, 0.8))),
    ),
    "SHOES": (
        Piece(((0, 0.06), (0.1, 0), (0.28, 0.12), (0.46, 0.42), (0.8, 0.52), (0.96, 0.68), (1, 0.9), (0, 0.9))),
        _rectangle(0, 0.85, 0.26, 1),
        _rectangle(0.4, 0.85, 1, 1),
    ),
    "SUNGLASSES": (
        _ellipse(0, 0.02, 0.45, 1),
        _ellipse(0.55, 0.02, 1, 1),
        _rectangle(0.02, 0.06, 0.98, 0.24),
    ),
    "BELTS": (
        Piece(((0.1, 0.2), (0.93, 0.2), (1, 0.5), (0.93, 0.8), (0.1, 0.8))),
        _rectangle(0, 0, 0.2, 1),
        _rectangle(0.05, 0.26, 0.12, 0.74, hole=True),
    ),
}


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows. Sides in pixels, ``box`` where the product lies, ``band`` None without a trim."""

    width: int
    height: int
    background: Colour
    kind: str
    box: Box
    colour: Colour
    tint: Colour
    pattern: str
    upright_stripes: bool
    band: Colour | None
    band_edge: str
    band_share: float


def draw_scene(scene: Scene) -> Image.Image:
    """Draw a scene. Edges are smoothed by drawing small pictures at twice their size."""
    scale = 2 if scene.width * scene.height < 500_000 else 1
    size = (scene.width * scale, scene.height * scale)
    box = tuple(side * scale for side in scene.box)
    body = Image.new("RGB", size, scene.colour)
    _draw_pattern(ImageDraw.Draw(body), scene, box)
    if scene.band is not None:
        part = _band_of(scene.kind, scene.band_edge, scene.band_share)
        ImageDraw.Draw(body).rectangle(_placed(part, box), fill=scene.band)
    picture = Image.new("RGB", size, scene.background)
    picture.paste(_lit(body), mask=_mask(scene.kind, size, box))
    return picture.reduce(scale) if scale > 1 else picture


def band_area_share(kind: str, edge: str, share: float) -> float:
    """Share of a silhouette's area that its band covers, by counting pixels: at least ``share``."""
    left, top, right, bottom = (round(side * _GRID) for side in _band_of(kind, edge, share))
    mask = _mask(kind, (_GRID, _GRID), (0, 0, _GRID, _GRID))
    return _area(mask.crop((left, top, right, bottom))) / _area(mask)


_GRID = 200  # pixels along a side of the grid that areas are counted on


def _area(mask: Image.Image) -> int:
    return mask.histogram()[255]


def _mask(kind: str, size: tuple[int, int], box: Box) -> Image.Image:
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    for piece in SILHOUETTES[kind]:
        points = [_point(x, y, box) for x, y in piece.points]
        draw = pen.ellipse if len(points) == 2 else pen.polygon
        draw(points, fill=0 if piece.hole else 255)
    return mask


def _point(x: float, y: float, box: Box) -> tuple[float, float]:
    left, top, right, bottom = box
    return left + x * (right - left), top + y * (bottom - top)


def _placed(part: Box, box: Box) -> list[tuple[float, float]]:
    return [_point(part[0], part[1], box), _point(part[2], part[3], box)]


@cache
def _band_of(kind: str, edge: str, share: float) -> Box:
    """The band along one edge of the unit box, as deep as needed to cover ``share`` of the silhouette's area."""
    mask = _mask(kind, (_GRID, _GRID), (0, 0, _GRID, _GRID))
    whole = _area(mask)
    for step in range(1, _GRID + 1):
        depth = step / _GRID
        band = {
            "top": (0.0, 0.0, 1.0, depth),
            "bottom": (0.0, 1 - depth, 1.0, 1.0),
            "left": (0.0, 0.0, depth, 1.0),
        }[edge]
        if _area(mask.crop(tuple(round(side * _GRID) for side in band))) >= share * whole:
            return band
    raise AssertionError(f"a band can cover no more than the whole: {share}")


def _draw_pattern(pen: ImageDraw.ImageDraw, scene: Scene, box: Box) -> None:
    """Three stripes across the long side, or discs a quarter of the long side apart, from the middle outwards."""
    left, top, right, bottom = box
    long = max(right - left, bottom - top)
    if scene.pattern == "striped":
        for number in range(3):
            start, end = (number / 3 + 1 / 12) * long, (number / 3 + 3 / 12) * long
            upright = (left + start, top, left + end, bottom)
            lying = (left, top + start, right, top + end)
            pen.rectangle(upright if scene.upright_stripes else lying, fill=scene.tint)
    elif scene.pattern == "dotted":
        pitch, radius = long / 4, long / 11
        for row, column in product(range(-2, 3), repeat=2):
            x, y = (left + right) / 2 + column * pitch, (top + bottom) / 2 + row * pitch
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=scene.tint)


def _lit(body: Image.Image) -> Image.Image:
    """Darken a little towards the bottom, so that a picture looks less like a stamp."""
    shade = Image.linear_gradient("L").point(lambda value: 255 - value // 6).resize(body.size)
    return ImageChops.multiply(body, Image.merge("RGB", (shade, shade, shade)))
