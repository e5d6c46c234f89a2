"""Whether a product's pictures are good, by decoding each completely; and what is known of them from then on.

Enters: a checked product. Leaves: a ``GoodPicture`` for each of its pictures that stays, or a ``Reject``. Decoding
takes milliseconds, so worker processes call this; everything a later step wants to know of the pixels is taken here.
With ``catalog.check_pictures`` off the header alone is looked at: a file that is missing, or no picture, too small,
too large or of an extreme shape is still found, one that is damaged behind its header isn't.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import xxhash
from PIL import Image

from phi3v_dist.catalog.checks import Product, Reject, reject
from phi3v_dist.catalog.likeness import fingerprint
from phi3v_dist.catalog.pictures import NotFetched, Picture
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.images import ImageError, open_image, read_header

_QUALITY = 95  # of pictures that are saved anew


@dataclass(frozen=True)
class GoodPicture:
    """``number``: of the product's pictures; ``num_bytes``, ``suffix``, ``width``, ``height``: as it came
    (``images.read_header``); ``xxh3``: XXH3-128 of its bytes; ``fingerprint``: likeness.py.

    The last two are None where only the header was read. ``save_anew``: it is repaired or made smaller when it is
    written.
    """

    number: int
    num_bytes: int
    suffix: str
    width: int
    height: int
    xxh3: bytes | None
    fingerprint: bytes | None
    save_anew: bool


class _Fault(Exception):
    """A picture that can't be used: reason and value."""


def check_pictures(product: Product, options: CatalogOptions) -> list[GoodPicture] | Reject:
    """Look at a product's pictures. Of those that can't be used the first one rejects, or all are left out."""
    look = _checked if options.check_pictures else _header_checked
    good, faults = [], []
    for number, picture in enumerate(product.pictures):
        try:
            good.append(look(number, picture, options))
        except _Fault as fault:
            faults.append(fault.args)
    if faults and (options.policy.bad_picture == "reject" or not good):
        reason, value = faults[0]
        return reject(options, product.row, product.code, f"picture: {reason}", value)
    return good


def saved_anew(content: bytes, options: CatalogOptions) -> bytes:
    """A picture as a plain RGB JPEG, no side longer than ``max_image_side``."""
    picture = open_image(content)
    if options.max_image_side:
        picture.thumbnail((options.max_image_side, options.max_image_side), Image.Resampling.LANCZOS)
    memory = io.BytesIO()
    picture.save(memory, "JPEG", quality=_QUALITY, subsampling=0)
    return memory.getvalue()


def _checked(number: int, picture: Picture, options: CatalogOptions) -> GoodPicture:
    with _faults(picture):
        content = picture.read()
        opened, header = _opened(content, options), read_header(content)
        return GoodPicture(
            number,
            len(content),
            header.suffix,
            *opened.size,
            xxh3=xxhash.xxh3_128_digest(content),
            fingerprint=fingerprint(opened).tobytes(),
            save_anew=_save_anew(picture, opened.size, header.oddities, options),
        )


def _header_checked(number: int, picture: Picture, options: CatalogOptions) -> GoodPicture:
    with _faults(picture), picture.open() as file:
        header = read_header(file)
        if math.prod(header.size) > options.max_image_megapixels * 1e6:
            raise ImageError("too large")
        save_anew = _save_anew(picture, header.size, header.oddities, options)
        num_bytes = file.seek(0, io.SEEK_END)
    if save_anew:  # it will be decoded, so it has to be whole
        _checked(number, picture, options)
    return GoodPicture(number, num_bytes, header.suffix, *header.size, None, None, save_anew)


def _save_anew(picture: Picture, size: tuple[int, int], odd: Sequence[str], options: CatalogOptions) -> bool:
    """Whether the policies want it saved anew. Raises ``_Fault`` where they don't want it."""
    told = f"{picture}: {size[0]} x {size[1]}"
    if min(size) < options.min_image_side:
        raise _Fault("too small", told)
    if max(size) > options.max_aspect_ratio * min(size) and options.policy.extreme_shape == "reject":
        raise _Fault("extreme shape", told)
    policies = {kind: getattr(options.policy, kind) for kind in odd}
    for kind, policy in policies.items():
        if policy == "reject":
            raise _Fault(kind, str(picture))
    return "repair" in policies.values() or 0 < options.max_image_side < max(size)


@contextmanager
def _faults(picture: Picture) -> Iterator[None]:
    """Whatever keeps a picture from being read or decoded as a ``_Fault``."""
    try:
        yield
    except ImageError as error:
        raise _Fault(error.reason, str(picture)) from None
    except NotFetched as error:
        raise _Fault(str(error), str(picture)) from None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise _Fault("missing", str(picture)) from None
    except OSError as error:
        raise _Fault("unreadable", f"{picture}: {error.strerror}") from None


def _opened(content: bytes, options: CatalogOptions) -> Image.Image:
    try:
        return open_image(content, max_megapixels=options.max_image_megapixels, strict=True)
    except ImageError as error:
        if error.reason != "damaged inside" or options.policy.damaged_inside == "reject":
            raise
    return open_image(content)
