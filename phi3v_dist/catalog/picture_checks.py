"""Whether a product's pictures are good, by decoding each completely; and what is known of them from then on.

Enters: a checked product. Leaves: a ``GoodPicture`` for each of its pictures that stays, or a ``Reject``. Decoding
takes milliseconds, so worker processes call this; everything a later step wants to know of the pixels is taken here.
"""

import hashlib
import io
from dataclasses import dataclass

from PIL import Image

from phi3v_dist.catalog.checks import Product, Reject, reject
from phi3v_dist.catalog.likeness import fingerprint
from phi3v_dist.catalog.pictures import NotFetched, Picture
from phi3v_dist.config.options import CatalogOptions
from phi3v_dist.images import ImageError, oddities, open_image

_QUALITY = 95  # of pictures that are saved anew


@dataclass(frozen=True)
class GoodPicture:
    """``number``: of the product's pictures; ``sha256``: of its bytes as they came; ``fingerprint``: likeness.py.

    ``save_anew``: it is repaired or made smaller when it is written.
    """

    number: int
    sha256: bytes
    fingerprint: bytes
    save_anew: bool


class _Fault(Exception):
    """A picture that can't be used: reason and value."""


def check_pictures(product: Product, options: CatalogOptions) -> list[GoodPicture] | Reject:
    """Decode a product's pictures. Of those that can't be used the first one rejects, or all are left out."""
    good, faults = [], []
    for number, picture in enumerate(product.pictures):
        try:
            good.append(_checked(number, picture, options))
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
    content = _content(picture)
    try:
        opened = _opened(content, options)
        odd = oddities(content)
    except ImageError as error:
        raise _Fault(error.reason, str(picture)) from None
    size = f"{picture}: {opened.width} x {opened.height}"
    if min(opened.size) < options.min_image_side:
        raise _Fault("too small", size)
    if max(opened.size) > options.max_aspect_ratio * min(opened.size) and options.policy.extreme_shape == "reject":
        raise _Fault("extreme shape", size)
    policies = {kind: getattr(options.policy, kind) for kind in odd}
    for kind, policy in policies.items():
        if policy == "reject":
            raise _Fault(kind, str(picture))
    too_large = 0 < options.max_image_side < max(opened.size)
    return GoodPicture(
        number=number,
        sha256=hashlib.sha256(content).digest(),
        fingerprint=fingerprint(opened).tobytes(),
        save_anew=too_large or "repair" in policies.values(),
    )


def _content(picture: Picture) -> bytes:
    try:
        return picture.read()
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
