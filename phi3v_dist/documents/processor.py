"""Sample → document: what the model reads, in one place.

Enters: a model folder (``tokenizer.json``, ``preprocessor_config.json``), a sample of a shard. Leaves: a ``Document``
of token ids, labels and uint8 crops. The same object answers how many tokens a picture has, so that the plan (which
never decodes a picture) and the loader can't disagree.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.documents.crops import (
    IMAGE_MEAN,
    IMAGE_STD,
    OFFICIAL_CROP_SIZE,
    TOKEN_SIDE,
    Grid,
    crop_grid,
    grid_tokens,
    hd_transform,
    white_crops,
)
from phi3v_dist.documents.labels import IGNORED, answer_labels
from phi3v_dist.documents.prompt import Ids, PromptTemplate, answer_text
from phi3v_dist.errors import DocumentError
from phi3v_dist.images import open_image
from phi3v_dist.shards.read import Sample

SETTINGS = "preprocessor_config.json"

Crops = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Prompt:
    """A question with its pictures, ready for an answer: ``input_ids`` (tokens,) int64 with −k at picture k's places,
    ``crops`` per picture (h·w, 3, S, S) uint8, ``grids`` per picture (h, w).
    """

    input_ids: Ids
    crops: list[Crops]
    grids: list[Grid]


@dataclass(frozen=True, eq=False)
class Document(Prompt):
    """A prompt with its answer.

    ``labels`` (tokens,) int64, not shifted, −100 outside the answer. ``sample``: its number. ``damage``: why a blank
    document stands here in place of the sample, else None.
    """

    labels: Ids
    sample: int
    damage: str | None = None

    def cut_to(self, tokens: int) -> "Document":
        """The document with less of its answer, which keeps its end; at least as long as its prompt and two more."""
        ids, labels = (np.append(of[: tokens - 1], of[-1]) for of in (self.input_ids, self.labels))
        return replace(self, input_ids=ids, labels=labels)


class DocumentProcessor:
    """Makes documents for one model folder. ``num_crops``: most crops per picture; ``crop_size`` in pixels."""

    def __init__(self, template: PromptTemplate, num_crops: int, crop_size: int = OFFICIAL_CROP_SIZE) -> None:
        self.template = template
        self.num_crops = num_crops
        self.crop_size = crop_size

    @classmethod
    def from_folder(cls, folder: str | Path, options: DocumentOptions) -> "DocumentProcessor":
        """Read ``tokenizer.json`` and ``preprocessor_config.json`` of a model folder. Raises DocumentError."""
        template = PromptTemplate(Path(folder, "tokenizer.json"), options.template)
        settings = read_settings(Path(folder, SETTINGS))
        return cls(template, options.num_crops or settings["num_crops"], settings["crop_size"])

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids at which generation stops."""
        return self.template.end_ids

    @property
    def crop_tokens_side(self) -> int:
        """Tokens along the side of a crop, 12 for 336 pixels."""
        return self.crop_size // TOKEN_SIDE

    def grid(self, width: int, height: int) -> Grid:
        """Return (h, w), the grid of crops of a picture of this size in pixels."""
        return crop_grid(width, height, self.num_crops, self.crop_size)

    def image_tokens(self, width: int, height: int) -> int:
        """Return the tokens of a picture of this size in pixels."""
        return int(grid_tokens(*self.grid(width, height), self.crop_tokens_side))

    def document(self, sample: Sample) -> Document:
        """Make a sample's document. Raises ``images.ImageError`` where a picture can't be opened."""
        # no limit on size: the catalogue's checks had theirs before the sample was written
        prompt = self.prompt([open_image(image, max_megapixels=math.inf) for image in sample.images])
        answer = self.template.answer_ids(answer_text(sample.title, sample.category, sample.price))
        input_ids = np.concatenate([prompt.input_ids, answer])
        labels = answer_labels(input_ids, len(prompt.input_ids))
        return Document(input_ids, prompt.crops, prompt.grids, labels, sample.number)

    def prompt(self, images: Sequence[Image.Image]) -> Prompt:
        """Make the prompt for RGB pictures, without an answer: what generation starts from."""
        parts = [hd_transform(image, self.num_crops, self.crop_size) for image in images]
        grids = [grid for _, grid in parts]
        return Prompt(self._prompt_ids(grids), [crops for crops, _ in parts], grids)

    def blank_document(
        self, sample: int, grids: Sequence[Grid], tokens: int | None = None, damage: str | None = None
    ) -> Document:
        """Make a document of white pictures of these grids that teaches nothing (no supervised token).

        It stands for a damaged sample: with ``tokens``, the sample's planned length, a pack keeps its shape.
        """
        input_ids = self._prompt_ids(grids)
        if tokens is not None:
            assert tokens >= len(input_ids), f"sample {sample}: {tokens} tokens can't hold its prompt"
            input_ids = np.pad(input_ids, (0, tokens - len(input_ids)), constant_values=self.template.end_id)
        crops = [white_crops(grid, self.crop_size) for grid in grids]
        return Document(input_ids, crops, list(grids), np.full_like(input_ids, IGNORED), sample, damage)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Return the text of ids without special tokens."""
        return self.template.decode(ids)

    def _prompt_ids(self, grids: Sequence[Grid]) -> Ids:
        return self.template.prompt_ids([int(grid_tokens(*grid, self.crop_tokens_side)) for grid in grids])


def read_settings(file: Path) -> dict[str, Any]:
    """Return a ``preprocessor_config.json``, checked (see ``check_settings``). Raises DocumentError."""
    try:
        return check_settings(json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        what = f"can't be read as the settings of a Phi-3-Vision processor: {error!r}"
        raise _settings_fault(str(file), what) from error


def check_settings(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return ``settings`` with ``crop_size`` (pixels) filled in. Raises DocumentError unless ``crops.py`` does them.

    ``crop_size`` is our own optional key, for small demo models.
    """
    num_crops, crop_size = settings.get("num_crops"), settings.get("crop_size", OFFICIAL_CROP_SIZE)
    if not isinstance(num_crops, int) or num_crops < 1:
        raise _settings_fault(where, "num_crops is no count", num_crops)
    if not isinstance(crop_size, int) or crop_size < TOKEN_SIDE or crop_size % TOKEN_SIDE:
        raise _settings_fault(where, f"crop_size is no multiple of {TOKEN_SIDE} pixels", crop_size)
    for name, ours in (("image_mean", IMAGE_MEAN), ("image_std", IMAGE_STD)):
        if tuple(settings.get(name, ours)) != ours:
            raise _settings_fault(where, f"{name} is not CLIP's {ours}", settings[name])
    return {**settings, "crop_size": crop_size}


def with_num_crops(settings: bytes, num_crops: int) -> bytes:
    """Return the content of a ``preprocessor_config.json`` with this ``num_crops``, every other byte as it was."""
    return re.sub(rb'("num_crops"\s*:\s*)\d+', rb"\g<1>%d" % num_crops, settings)


def _settings_fault(where: str, what: str, value: object = None) -> DocumentError:
    mend = "Copy preprocessor_config.json from the model that training begins from"
    return DocumentError(what, where=where, value=value, mend=mend)
