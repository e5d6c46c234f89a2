"""Pictures small enough to stand in a page by the dozen.

Enters: a picture file's bytes. Leaves: a JPEG as data URI, so that the page needs no other file.
"""

import base64
import io
import math

from phi3v_dist.images import open_image

_SIDE = 220  # pixels, longest side


def thumbnail(content: bytes, *, max_megapixels: float = math.inf) -> str:
    """The picture as a small one. Raises ``ImageError`` for one that can't be opened, or is larger than allowed."""
    picture = open_image(content, max_megapixels=max_megapixels)
    picture.thumbnail((_SIDE, _SIDE))
    memory = io.BytesIO()
    picture.save(memory, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(memory.getvalue()).decode()
