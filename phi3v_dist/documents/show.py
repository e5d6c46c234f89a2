"""One document for a person's eyes: its tokens with their labels, its crops as one picture.

Enters: a sample's number, shards, a model folder. Leaves: ``ShownDocument``, a text for the console and a picture of
what the vision tower reads. Both are made from the document that training would read, so that a wrong template, label
or crop can be seen.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.text import Text

from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.documents.crops import IMAGE_MEAN, IMAGE_STD, finish_crops
from phi3v_dist.documents.labels import IGNORED
from phi3v_dist.documents.processor import Document, DocumentProcessor, Prompt
from phi3v_dist.errors import DocumentError, ShardError
from phi3v_dist.files import atomic_path
from phi3v_dist.images import ImageError
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import DamagedSample, Sample, ShardReader

LEGEND = "learned tokens stand between « and »"

_LEARNED, _PICTURE, _CONTROL, _ELSE = "bold green", "cyan", "magenta", "dim"
_GAP = 4  # pixels between crops
_GREY = (128, 128, 128)  # no picture is padded with it


@dataclass(frozen=True)
class ShownDocument:
    """A sample and the document that ``processor`` made of it."""

    sample: Sample
    document: Document
    processor: DocumentProcessor

    def summary(self) -> str:
        """One line of counts."""
        document = self.document
        pictures = ", ".join(f"{rows} × {columns} crops" for rows, columns in document.grids)
        learned = int((document.labels != IGNORED).sum())
        return (
            f"sample {self.sample.number}, product {self.sample.product_code}: {len(document.input_ids)} tokens, "
            f"{learned} learned; pictures: {pictures or 'none'}"
        )

    def tokens(self) -> Text:
        """All tokens in order; a picture's places are drawn together, learned tokens stand between « and »."""
        return token_text(self.document, self.processor)

    def write_crops(self, path: str | Path) -> None:
        """Write the picture of ``crops_picture`` as PNG. Raises DocumentError where the path can't be written."""
        try:
            with atomic_path(path) as temporary:
                crops_picture(self.document).save(temporary, "PNG")
        except OSError as error:
            mend = "Name a PNG file in a folder that can be written."
            raise DocumentError(f"can't be written: {error.strerror}", where=str(path), mend=mend) from None


def load_shown(
    shards_folder: str | Path, model_folder: str | Path, number: int, options: DocumentOptions
) -> ShownDocument:
    """Make sample ``number`` (0 to n − 1 over both splits) a document. Raises ShardError, DocumentError."""
    processor = DocumentProcessor.from_folder(model_folder, options)
    index = load_index(shards_folder)
    if not 0 <= number < len(index):
        mend = f"The folder holds samples 0 to {len(index) - 1}."
        raise ShardError("no such sample", where=str(shards_folder), value=number, mend=mend)
    try:
        sample = ShardReader(index).sample(number)
        return ShownDocument(sample, processor.document(sample), processor)
    except (DamagedSample, ImageError) as error:
        mend = "Training would put a blank document in its place. Make the shards anew."
        raise ShardError(f"sample {number} is damaged: {error}", where=str(shards_folder), mend=mend) from None


def token_text(document: Document, processor: DocumentProcessor) -> Text:
    """The tokens as pieces of the tokenizer, coloured: learned, picture, control, all else."""
    tokenizer = processor.template.tokenizer
    control = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    text = Text()
    starts = _run_starts(document)
    for first, end in zip(starts, [*starts[1:], len(document.input_ids)], strict=True):
        token, learned = int(document.input_ids[first]), document.labels[first] != IGNORED
        if token < 0:
            rows, columns = document.grids[-token - 1]
            text.append(f"[picture {-token}: {end - first} tokens, {rows} × {columns} crops] ", _PICTURE)
            continue
        if learned and (first == 0 or document.labels[first - 1] == IGNORED):
            text.append("« ", _LEARNED)
        style = _LEARNED if learned else _CONTROL if token in control else _ELSE
        text.append(f"{tokenizer.id_to_token(token)} ", style)
        if learned and (end == len(document.labels) or document.labels[end] == IGNORED):
            text.append("» ", _LEARNED)
    return text


def _run_starts(document: Document) -> list[int]:
    """Where each token begins, and each picture's run of places."""
    ids = document.input_ids
    inside = (ids[1:] < 0) & (ids[1:] == ids[:-1])
    return [0, *(np.flatnonzero(~inside) + 1).tolist()]


def crops_picture(prompt: Prompt) -> Image.Image:
    """All pictures one below the other: left the global view, right the crops at their places, grey between them.

    The pixels are the finished ones with the normalisation undone: what the vision tower reads, not the file.
    """
    side = prompt.crops[0].shape[-1] if prompt.crops else 1
    step = side + _GAP
    width = _GAP + step * (1 + max((columns for _, columns in prompt.grids), default=0)) + _GAP
    sheet = Image.new("RGB", (width, _GAP + step * max(1, sum(rows for rows, _ in prompt.grids))), _GREY)
    top = _GAP
    for crops, grid in zip(prompt.crops, prompt.grids, strict=True):
        view, *tiles = _seen(finish_crops(torch.from_numpy(crops), [grid], torch.float32))
        sheet.paste(view, (_GAP, top))
        for place, tile in enumerate(tiles):
            row, column = divmod(place, grid[1])
            sheet.paste(tile, (2 * _GAP + step * (1 + column), top + step * row))
        top += step * grid[0]
    return sheet


def _seen(pixels: torch.Tensor) -> list[Image.Image]:
    """(n, 3, S, S) normalised → RGB pictures; the view's bicubic overshoot is cut off."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    values = ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in values]
