"""The one way a picture is opened, so that checking, indexing and training see the same one.

Enters: the bytes of a file. Leaves: an 8-bit RGB picture as a person would see it on a white page: turned by its EXIF
note, transparency laid on white, 16 bits scaled to 8, the first frame of an animation, every pixel decoded. Or an
``ImageError`` with a short stable reason. ``read_header`` tells the same size from the header alone, and what a
reader other than this one may trip over.
"""

import io
import math
import warnings
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy
import simplejpeg
from PIL import ExifTags, Image

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")  # none that calls another program

_TURNS: Final = {  # EXIF orientation → what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS: Final = (5, 6, 7, 8)

# Pillow's own limit is a fixed number of the process, and its warning below it can't be mended by a user. Ours is an
# option, and it is checked before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


class ImageError(Exception):
    """``reason`` is one of: empty, not a picture, too large, truncated, damaged, damaged inside, pixel type."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def open_image(data: bytes, *, max_megapixels: float = math.inf, strict: bool = False) -> Image.Image:
    """Decode a picture completely to RGB (uint8). Raises ``ImageError``; a size above the limit before decoding.

    Only the catalogue's checks need a limit, and to be ``strict``: what is read from shards has passed them. Pillow
    takes a JPEG whose middle is damaged for whole, and grey stripes for the picture; a strict decoder refuses it
    ("damaged inside"), and gives the same pixels of all others (tests/test_images.py).
    """
    with warnings.catch_warnings(action="ignore"):  # of odd metadata, one line for each picture
        picture = _identified(data)
        if picture.width * picture.height > max_megapixels * 1e6:
            raise ImageError("too large")
        orientation = _orientation(picture)
        picture = as_rgb(_decoded(picture, data, strict))
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


@dataclass(frozen=True)
class PictureHeader:
    """What is known of a picture before it is decoded.

    ``size``: width and height (pixels) that ``open_image`` would give. ``suffix``: ending of a file's name by its
    content (``jpg``, ``png``, …). ``oddities``: which of these it is: turned, cmyk, deep, transparent, animated.
    """

    size: tuple[int, int]
    suffix: str
    oddities: tuple[str, ...]


def read_header(data: bytes | BinaryIO) -> PictureHeader:
    """Of an open file no more is read than the header. Raises ``ImageError``."""
    with warnings.catch_warnings(action="ignore"):
        picture = _identified(data)
        kind, (width, height), orientation = picture.format or "", picture.size, _orientation(picture)
        found = {
            "turned": orientation in _TURNS,
            "cmyk": picture.mode == "CMYK",
            "deep": picture.mode in ("I", "F") or picture.mode.startswith("I;"),
            "transparent": picture.has_transparency_data,
            "animated": kind != "MPO" and _is_animated(picture),
        }
    return PictureHeader(
        size=(height, width) if orientation in _QUARTER_TURNS else (width, height),
        suffix="jpg" if kind in ("JPEG", "MPO") else kind.lower(),  # MPO: a JPEG with more pictures behind it
        oddities=tuple(kind for kind, is_so in found.items() if is_so),
    )


def _identified(data: bytes | BinaryIO) -> Image.Image:
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    file.seek(0)
    if not file.read(1):
        raise ImageError("empty")
    file.seek(0)
    try:
        return Image.open(file, formats=FORMATS)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers answer garbage with a dozen kinds of exceptions
        raise ImageError("not a picture") from error


def _is_animated(picture: Image.Image) -> bool:
    try:
        return getattr(picture, "n_frames", 1) > 1
    except MemoryError:
        raise
    except Exception:  # behind the first frame, which is all that is looked at, lies what is no frame
        return True


def _decoded(picture: Image.Image, data: bytes, strict: bool) -> Image.Image:
    try:
        if strict and picture.format in ("JPEG", "MPO"):
            return _strictly_decoded(picture, data)
        picture.load()
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # as above
        raise ImageError("truncated" if "truncated" in str(error) else "damaged") from error
    return picture


def _strictly_decoded(picture: Image.Image, data: bytes) -> Image.Image:
    space = {"L": "GRAY", "CMYK": "CMYK"}.get(picture.mode, "RGB")
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace=space)
    except ValueError:
        picture.load()  # says what Pillow finds, where it finds anything
        raise ImageError("damaged inside") from None
    if space == "CMYK":
        picture.load()  # inverted by some writers, which Pillow knows
        return picture
    return Image.fromarray(pixels[..., 0] if space == "GRAY" else pixels)


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation (1 to 8) that is left to us, read before decoding. An unreadable note turns nothing."""
    if picture.format == "TIFF":
        return 1  # Pillow turns these itself, size included
    try:
        # Not PngImageFile.getexif, which decodes the whole picture to look for a note behind the pixels.
        return Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF blocks are written by every kind of software
        return 1


def as_rgb(picture: Image.Image) -> Image.Image:
    """A new 8-bit RGB picture: transparency laid on white, 16 bits scaled. Raises ``ImageError`` ("pixel type").

    It has no metadata, so that nobody turns it a second time.
    """
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        return _from_deep(picture)
    try:
        if not picture.has_transparency_data:
            rgb = picture.convert("RGB")
        else:
            layer = picture.convert("RGBA")
            rgb = Image.new("RGB", picture.size, "white")
            rgb.paste(layer, mask=layer.getchannel("A"))
    except ValueError as error:
        raise ImageError("pixel type") from error
    rgb.info = {}
    return rgb


def _from_deep(picture: Image.Image) -> Image.Image:
    """16-bit grey → 8-bit RGB by the high byte, as Pillow does for 16-bit colour; a transparent grey becomes white."""
    values = numpy.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65_535:
        raise ImageError("pixel type")  # no range is agreed on, so any picture would be a guess
    grey = (values >> 8).astype(numpy.uint8)
    if "transparency" in picture.info:
        grey[values == picture.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")
