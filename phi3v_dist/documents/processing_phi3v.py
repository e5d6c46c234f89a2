"""``Phi3VProcessor``: text with ``<|image_k|>`` tags and pictures → model inputs, as the official processor gives them.

Enters: a model folder; texts, pictures. Leaves: ``input_ids`` with −k at picture k's places, ``attention_mask``,
``pixel_values``, ``image_sizes``. Beyond the official one it takes several texts at once, and refuses tags that the
model would misread: it gives pictures to places by order alone, so ``<|image_2|>`` before ``<|image_1|>`` would swap
them without a word.

The tokenizer is made from ``tokenizer.json`` alone by the ``tokenizers`` library: transformers' own loader may rebuild
it and give other ids (facts: phi3v.md, sections 0 and 6).
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

from phi3v_dist.documents.image_processing_phi3v import Phi3VImageProcessor, copy_side_files
from phi3v_dist.documents.processor import SETTINGS
from phi3v_dist.documents.prompt import PromptTemplate, around_pictures
from phi3v_dist.errors import DocumentError

_TAG = re.compile(r"<\|image_(\d+)\|>")
_ANY_TAG = "<|image_1|>"
_SPECIAL = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
_SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    SETTINGS,
    "processor_config.json",
    "image_processing_phi3_v.py",  # what auto_map of the settings names, for readers without our classes
    "processing_phi3_v.py",
)

Pictures = Sequence[Image.Image] | Sequence[Sequence[Image.Image]] | Image.Image


class Phi3VProcessor(ProcessorMixin):
    """An image processor and a tokenizer; ``decode``, ``batch_decode``, ``apply_chat_template`` are transformers'."""

    def __init__(
        self, image_processor: Phi3VImageProcessor, tokenizer: PreTrainedTokenizerFast, chat_template: str | None = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self._source: Path | None = None

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | Path, num_crops: int | None = None, **_: Any
    ) -> "Phi3VProcessor":
        """Read ``tokenizer.json`` and ``preprocessor_config.json`` of a model folder, no code. Raises DocumentError.

        ``num_crops`` wins over the file's. Further options of transformers speak of downloads and mean nothing here.
        """
        checked = PromptTemplate(Path(folder, "tokenizer.json"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=checked.tokenizer, padding_side="right", **_SPECIAL)
        tokenizer.chat_template = _chat_template(Path(folder, "tokenizer_config.json"))
        processor = cls(Phi3VImageProcessor.from_pretrained(folder, num_crops), tokenizer, tokenizer.chat_template)
        processor._source = Path(folder)
        return processor

    def save_pretrained(self, save_directory: str | Path) -> list[str]:  # type: ignore[override]
        """Copy the files that this was read from byte for byte (``num_crops`` apart). Returns their paths."""
        if self._source is None:
            mend = "Make it with Phi3VProcessor.from_pretrained(folder), or copy the files of a model folder."
            raise DocumentError("has no files to copy", where="Phi3VProcessor", mend=mend)
        return copy_side_files(self._source, save_directory, _SIDE_FILES, self.image_processor.num_crops)

    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str],
        images: Pictures | None = None,
        padding: bool | str = True,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Return the inputs of b texts and their n pictures.

        ``input_ids``, ``attention_mask`` (b, longest) int64: BOS before the text and after each picture; shorter texts
        are padded at ``tokenizer.padding_side`` ("right"; set "left" to generate). ``pixel_values`` (n, num_crops + 1,
        3, S, S) float32 and ``image_sizes`` (n, 2) int64, all texts' pictures in order; absent where there are none.
        ``images``: in the order of the tags, flat or one list per text. A text's tags are ``<|image_1|>`` to
        ``<|image_k|>`` in this order. Raises DocumentError.
        """
        texts = [text] if isinstance(text, str) else list(text)
        pictures = _pictures_of(texts, images)
        seen = self.image_processor(pictures) if pictures else BatchFeature()
        counts = iter(seen.pop("num_img_tokens", []))
        ids = [self._ids(one, counts) for one in texts]
        padded = self.tokenizer.pad({"input_ids": ids}, padding=padding)
        return BatchFeature({**padded, **seen}, tensor_type=return_tensors)

    def calc_num_image_tokens_from_image_size(self, width: int, height: int) -> int:
        """Return the tokens of a picture of this size in pixels."""
        return self.image_processor.calc_num_image_tokens_from_image_size(width, height)

    def _ids(self, text: str, counts: Iterator[int]) -> list[int]:
        """Ids of one text; takes the token counts of its pictures from ``counts``."""
        pieces = [self.tokenizer(piece).input_ids for piece in _TAG.sub(_ANY_TAG, text).split(_ANY_TAG)]
        return around_pictures(pieces, list(islice(counts, len(pieces) - 1)))


def _pictures_of(texts: Sequence[str], images: Pictures | None) -> list[Any]:
    """All pictures in the order of the texts, once each tag has its own."""
    wanted = [_tags(text) for text in texts]
    given = [images] if isinstance(images, Image.Image) else list(images or [])
    groups = [one for one in given if isinstance(one, list | tuple)]
    if groups:
        found = [len(group) for group in groups]
        given = [picture for group in groups for picture in group]
    else:
        found = wanted if len(given) == sum(wanted) else [len(given)]
    if found != wanted:
        mend = "Give each tag <|image_k|> one picture, in the order of the tags."
        raise DocumentError(f"the tags name {wanted} pictures", where="images", value=found, mend=mend)
    return given


def _tags(text: str) -> int:
    """Number of pictures that a text names."""
    tags = [int(number) for number in _TAG.findall(text)]
    if tags != list(range(1, len(tags) + 1)):
        mend = "Number them from 1 in the order of the text: the model gives pictures to places by order alone."
        raise DocumentError("picture tags are not 1, 2, 3 …", where="text", value=tags, mend=mend)
    return len(tags)


def _chat_template(file: Path) -> str | None:
    """The template of ``tokenizer_config.json``; the demo model's folder has no such file."""
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("chat_template")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        mend = "Copy tokenizer_config.json unchanged from the model that training begins from"
        raise DocumentError(f"can't be read: {error}", where=str(file), mend=mend) from error
