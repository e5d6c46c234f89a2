"""``Phi3VImageProcessor``: pictures → padded pixel values, with the interface of the official class.

Enters: PIL pictures. Leaves: ``pixel_values``, ``image_sizes`` and ``num_img_tokens``, on RGB pictures equal to the
official processor's. Other kinds of pictures first become what a person sees (``images.as_rgb``), where the official
one drops transparency and clips 16 bits. It is for code that expects transformers' classes: training makes its
documents in ``processor.py``, without padding crops.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from phi3v_dist.documents.crops import IMAGE_MEAN, IMAGE_STD, TOKEN_SIDE, finish_crops, hd_transform, image_tokens
from phi3v_dist.documents.processor import SETTINGS, check_settings, read_settings, with_num_crops
from phi3v_dist.errors import DocumentError
from phi3v_dist.files import atomic_path
from phi3v_dist.images import ImageError, as_rgb


class Phi3VImageProcessor(BaseImageProcessor):
    """The official HD transform. ``num_crops``: most crops of a picture, its global view not counted.

    Where the official class fails (a picture so long that its shorter side would be resized to 0 pixels) the side is
    1 pixel here.
    """

    model_input_names = ["pixel_values", "image_sizes"]  # noqa: RUF012 - a list is transformers' interface

    def __init__(self, num_crops: int = 16, **settings: Any) -> None:
        """``settings``: other keys of ``preprocessor_config.json``. Raises DocumentError for what isn't CLIP's."""
        official = {"image_mean": list(IMAGE_MEAN), "image_std": list(IMAGE_STD), "do_convert_rgb": True}
        checked = check_settings({**official, **settings, "num_crops": num_crops}, type(self).__name__)
        super().__init__(**checked)
        self.num_crops: int = num_crops
        self.crop_size: int = checked["crop_size"]
        self._source: Path | None = None

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | Path, num_crops: int | None = None, **_: Any
    ) -> "Phi3VImageProcessor":
        """Read a model folder; ``num_crops`` wins over the file's. Raises DocumentError.

        Further options of transformers speak of downloads (``revision``, ``token``, …) and mean nothing to a folder.
        """
        settings = read_settings(Path(folder, SETTINGS))
        if num_crops is not None:
            settings["num_crops"] = num_crops
        processor = cls(**settings)
        processor._source = Path(folder)
        return processor

    def save_pretrained(self, save_directory: str | Path) -> list[str]:  # type: ignore[override]
        """Write ``preprocessor_config.json``: the bytes it was read from, ``num_crops`` apart. Return its path."""
        if self._source is None:
            return super().save_pretrained(save_directory)
        return copy_side_files(self._source, save_directory, [SETTINGS], self.num_crops)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as ``preprocessor_config.json`` has them."""
        return {name: value for name, value in super().to_dict().items() if not name.startswith("_")}

    def preprocess(
        self, images: Image.Image | Sequence[Image.Image], return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """Return n pictures as ``pixel_values`` (n, num_crops + 1, 3, S, S) float32, ``image_sizes`` (n, 2) int64
        (height, width after padding) and ``num_img_tokens`` (n).

        Per picture the global view, its crops row by row, then zeros. Raises DocumentError for what is no picture.
        """
        pictures = [images] if isinstance(images, Image.Image) else images
        parts = [
            hd_transform(_rgb(picture, n), self.num_crops, self.crop_size) for n, picture in enumerate(pictures, 1)
        ]
        pixels = torch.zeros(len(parts), self.num_crops + 1, 3, self.crop_size, self.crop_size)
        for slots, (crops, grid) in zip(pixels, parts, strict=True):
            slots[: len(crops) + 1] = finish_crops(torch.from_numpy(crops), [grid], torch.float32)
        sizes = torch.tensor([grid for _, grid in parts], dtype=torch.int64).view(-1, 2) * self.crop_size
        tokens = [self.calc_num_image_tokens_from_image_size(int(width), int(height)) for height, width in sizes]
        data = {"pixel_values": pixels, "image_sizes": sizes, "num_img_tokens": tokens}
        return BatchFeature(data, tensor_type=return_tensors)

    def calc_num_image_tokens_from_image_size(self, width: int, height: int) -> int:
        """Return the tokens of a picture of this size in pixels."""
        return image_tokens(width, height, self.num_crops, self.crop_size // TOKEN_SIDE)


def copy_side_files(source: Path, target: str | Path, names: Iterable[str], num_crops: int) -> list[str]:
    """Copy those of ``names`` that ``source`` has, byte for byte; in the settings only ``num_crops`` may change.

    Writing such files anew would change them (facts: phi3v.md, section 8). Returns the paths written.
    """
    written = []
    for name in names:
        if (source / name).is_file():
            content = (source / name).read_bytes()
            if name == SETTINGS:
                content = with_num_crops(content, num_crops)
            with atomic_path(Path(target, name)) as temporary:
                temporary.write_bytes(content)
            written.append(str(Path(target, name)))
    return written


def _rgb(picture: object, number: int) -> Image.Image:
    """The picture itself where it is RGB. Its EXIF note turns nothing, as officially; ``images.open_image`` turns."""
    where, mend = f"picture {number}", "Open it with phi3v_dist.images.open_image or PIL.Image.open."
    if not isinstance(picture, Image.Image):
        raise DocumentError("is no PIL picture", where=where, value=type(picture).__name__, mend=mend)
    try:
        return picture if picture.mode == "RGB" else as_rgb(picture)
    except ImageError as error:
        raise DocumentError("can't become RGB", where=where, value=picture.mode, mend=mend) from error
