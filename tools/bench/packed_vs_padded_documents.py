"""The demo model and documents of three length spreads, laid out as packs and as padded batches.

Enters: a seed. Leaves: documents with pictures of the demo catalogue, and per way its batches. The tokenizer learns
the titles, as `tools/make_demo_model.py` has it; documents are made in memory, without shards.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from phi3v_dist.catalog.demo import draw_product, title_of
from phi3v_dist.config.options import DocumentOptions, PackingOptions
from phi3v_dist.documents.demo_tokenizer import build_demo_tokenizer
from phi3v_dist.documents.labels import IGNORED, answer_labels
from phi3v_dist.documents.processor import SETTINGS, Document, DocumentProcessor
from phi3v_dist.documents.prompt import answer_text
from phi3v_dist.files import write_json
from phi3v_dist.model.demo import demo_config, demo_model, demo_preprocessor_config
from phi3v_dist.model.phi3v import Phi3VForCausalLM
from phi3v_dist.packing.collate import Batch, collate
from phi3v_dist.packing.subset import pack_documents

PRODUCTS = 256  # drawn; documents share their pictures and words
_LONGEST_TEXT = 2000  # with 3 pictures far below 4,096, where a document's RoPE factors change and padding's with it
_PACKING = PackingOptions()


@dataclass(frozen=True)
class Spread:
    """``pictures``: fewest and most of a document. ``text_tokens``: draws an answer's length; None: a product's own."""

    pictures: tuple[int, int]
    text_tokens: Callable[[np.random.Generator], float] | None = None


SPREADS = {
    "narrow": Spread((1, 1)),
    "medium": Spread((1, 3), lambda dice: dice.integers(20, 201)),
    "wide": Spread((1, 3), lambda dice: np.clip(dice.lognormal(np.log(100), 1.0), 10, _LONGEST_TEXT)),
}


@dataclass(frozen=True)
class Way:
    """Batches of all documents of a step; ``real_tokens`` without padding, ``laid_tokens`` with it."""

    name: str
    batches: list[Batch]
    real_tokens: int

    @property
    def laid_tokens(self) -> int:
        """What the language model computes."""
        return sum(len(batch.input_ids) for batch in self.batches)

    @property
    def supervised(self) -> int:
        """Tokens that are scored."""
        return sum(len(batch.targets) for batch in self.batches)


@cache
def _products() -> list[tuple[str, str, float, Image.Image]]:
    """Title, category, price and picture."""
    drawn = (draw_product(0, number) for number in range(PRODUCTS))
    return [(title_of(look), look.kind, price, picture) for look, price, picture in drawn]


@cache
def _tokenizer():  # type: ignore[no-untyped-def]
    return build_demo_tokenizer(answer_text(*product[:3]) for product in _products())


def _config() -> dict[str, object]:
    ids = {token: _tokenizer().token_to_id(token) for token in ("<s>", "<|endoftext|>")}
    return demo_config(_tokenizer().get_vocab_size(), ids)


def build_model(seed: int) -> Phi3VForCausalLM:
    """The demo model in float32; the same seed gives the same weights."""
    model = demo_model(_config(), seed)
    model.freeze(train_vision=True)
    return model.train()


class DemoDocuments:
    """Draws documents of a spread, and lays them out in each way."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._end_id = int(_config()["pad_token_id"])
        with tempfile.TemporaryDirectory() as folder:
            _tokenizer().save(f"{folder}/tokenizer.json")
            write_json(Path(folder, SETTINGS), demo_preprocessor_config())
            self._processor = DocumentProcessor.from_folder(folder, DocumentOptions())

    def draw(self, spread: str, count: int) -> list[Document]:
        """``count`` documents in random order."""
        dice = np.random.default_rng([self._seed, list(SPREADS).index(spread)])
        return [self._document(SPREADS[spread], number, dice) for number in range(count)]

    def _document(self, spread: Spread, number: int, dice: np.random.Generator) -> Document:
        shown = dice.integers(PRODUCTS, size=dice.integers(spread.pictures[0], spread.pictures[1] + 1))
        prompt = self._processor.prompt([_products()[one][3] for one in shown])
        title, category, price, _ = _products()[shown[0]]
        tokens = None if spread.text_tokens is None else int(spread.text_tokens(dice))
        if tokens is not None:
            # a title has three words or more
            title = " ".join(_products()[one][0] for one in dice.integers(PRODUCTS, size=tokens // 3 + 1))
        answer = self._processor.template.answer_ids(answer_text(title, category, price))
        input_ids = np.concatenate([prompt.input_ids, answer])
        labels = answer_labels(input_ids, len(prompt.input_ids))
        document = Document(input_ids, prompt.crops, prompt.grids, labels, number)
        return document if tokens is None else document.cut_to(len(prompt.input_ids) + tokens)

    def ways(self, documents: list[Document], pack_tokens: int) -> list[Way]:
        """Packs first, then padded batches in the order given and sorted by length; none over ``pack_tokens``."""
        real = sum(len(document.input_ids) for document in documents)
        by_length = sorted(documents, key=lambda document: len(document.input_ids))
        layouts = {
            "packs": _packs(documents, pack_tokens),
            "padded, random order": self._padded(documents, pack_tokens),
            "padded, sorted by length": self._padded(by_length, pack_tokens),
        }
        return [Way(name, [collate(part) for part in parts], real) for name, parts in layouts.items()]

    def _padded(self, documents: list[Document], pack_tokens: int) -> Iterator[list[Document]]:
        for batch in _batches(documents, pack_tokens):
            longest = max(len(document.input_ids) for document in batch)
            yield [_filled(document, longest, self._end_id) for document in batch]


def _packs(documents: list[Document], pack_tokens: int) -> Iterator[list[Document]]:
    lengths = np.array([len(document.input_ids) for document in documents])
    places, ends = pack_documents(lengths, pack_tokens, _PACKING.pool_documents, _PACKING.choose_documents)
    for part in np.split(places, ends[:-1]):
        yield [documents[place] for place in part]


def _batches(documents: list[Document], pack_tokens: int) -> Iterator[list[Document]]:
    """As many of the next documents as stay within ``pack_tokens`` when all are filled up to the longest."""
    batch: list[Document] = []
    longest = 0
    for document in documents:
        longest = max(longest, len(document.input_ids))
        if batch and longest * (len(batch) + 1) > pack_tokens:
            yield batch
            batch, longest = [], len(document.input_ids)
        batch.append(document)
    yield batch


def _filled(document: Document, tokens: int, end_id: int) -> Document:
    more = (0, tokens - len(document.input_ids))
    return replace(
        document,
        input_ids=np.pad(document.input_ids, more, constant_values=end_id),
        labels=np.pad(document.labels, more, constant_values=IGNORED),
    )
