"""Text as token ids: the question with places for its pictures, and the answer.

Enters: a model folder's ``tokenizer.json``; token counts of pictures; title, category and price of a product. Leaves:
int64 ids with −k at the places of picture k, and ids of answers. Only the ``tokenizers`` library reads the file:
transformers may rebuild the tokenizer and give other ids. Special ids come from the file, never from constants.

A document reads ``<|user|>⏎<|image_1|>question<|end|><|assistant|>⏎answer<|end|>``. As in the official processor each
piece of text between pictures is tokenised on its own and begins with BOS. The answer goes through a second tokenizer
that knows no special token, so that a product called ``<|end|>`` is text and never control.
"""

import hashlib
import json
from collections.abc import Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Tokenizer

from phi3v_dist.documents.token_counts import TokenCounter
from phi3v_dist.errors import DocumentError

QUESTION = "What is shown in this image?"
_BEGINNING = "<|user|>\n"
_ENDINGS = {"mission": "<|end|><|assistant|>\n", "official": "<|end|>\n<|assistant|>\n"}
_NEEDED_TOKENS = ("<s>", "<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>")

Ids = NDArray[np.int64]


def format_price(price: float) -> str:
    """Return the shortest decimal of a price: 1290.0 → ``1290``, 19.90 → ``19.9``, never an exponent."""
    digits = Decimal(repr(float(price)))
    if not digits.is_finite():
        raise DocumentError("is no number", where="price", value=price, mend="Correct the product table")
    text = format(digits, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def answer_text(title: str, category: str, price: float) -> str:
    """Return what the model shall say about a product."""
    return f"Product: {title}, Category: {category}, Full Price: {format_price(price)}"


def prompt_text(template: str) -> str:
    """Return a prompt with one picture as chat clients write it, ``<|image_1|>`` at the picture's place."""
    return f"{_BEGINNING}<|image_1|>{QUESTION}{_ENDINGS[template]}"


def around_pictures(pieces: Sequence[Sequence[int]], picture_tokens: Sequence[int]) -> list[int]:
    """Return ids with −k at picture k's places. ``pieces``: ids of the texts before, between and after the pictures."""
    ids = list(pieces[0])
    for number, (tokens, piece) in enumerate(zip(picture_tokens, pieces[1:], strict=True), start=1):
        ids.extend([-number] * tokens)
        ids.extend(piece)
    return ids


class PromptTemplate:
    """The tokenizer of a model folder and the text of a document around pictures and answer.

    ``fingerprint``: a hash of all that decides how many tokens a text has: two templates of one fingerprint agree.
    """

    def __init__(self, tokenizer_file: Path, template: str = "mission") -> None:
        """Read ``tokenizer_file``; ``template``: "mission" or "official". Raises DocumentError."""
        self._where = str(tokenizer_file)
        content = self._read(tokenizer_file)
        raw = self._parse(content)
        self._tokenizer = self._build(raw)
        self._text_tokenizer = self._build(raw | {"added_tokens": [], "post_processor": None})
        self._after_pictures = f"{QUESTION}{_ENDINGS[template]}"
        self._pieces: dict[int, list[list[int]]] = {}
        texts = [_BEGINNING, self._after_pictures, answer_text("title", "category", 0.5), tokenizers.__version__]
        self.fingerprint = hashlib.sha256(content + json.dumps(texts).encode()).hexdigest()
        self._check([token["content"] for token in raw["added_tokens"]])

    def _read(self, tokenizer_file: Path) -> bytes:
        try:
            return tokenizer_file.read_bytes()
        except OSError as error:
            raise self._fault(f"can't be read: {error}") from error

    def _parse(self, content: bytes) -> dict:
        try:
            raw = json.loads(content.decode())
        except ValueError as error:
            raise self._fault(f"can't be read: {error}") from error
        if not isinstance(raw, dict) or not isinstance(raw.get("added_tokens"), list):
            raise self._fault("is no tokenizer of the tokenizers library (no added_tokens)")
        return raw

    def _build(self, raw: dict) -> Tokenizer:
        try:
            tokenizer = Tokenizer.from_str(json.dumps(raw))
        except Exception as error:  # the library raises plain Exception
            raise self._fault(f"is refused by the tokenizers library: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def _check(self, added_tokens: list[str]) -> None:
        """Hold the file to what documents rely on: its special tokens, BOS, and text that can't become control."""
        for token in _NEEDED_TOKENS:
            self._id(token)
        if self._tokenizer.encode("").ids != [self._id("<s>")]:
            raise self._fault("its post-processor doesn't begin each text with <s>")
        for token in added_tokens:
            if self._id(token) in self._text_tokenizer.encode(token).ids:
                raise self._fault("a special token can be spelled by product text", token)

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise self._fault("a special token is missing", token)
        return number

    def _fault(self, what: str, value: object = None) -> DocumentError:
        mend = "Copy tokenizer.json unchanged from the model that training begins from"
        return DocumentError(what, where=self._where, value=value, mend=mend)

    @property
    def tokenizer(self) -> Tokenizer:
        """The file's tokenizer, which reads special tokens as control: for texts of ours, never a product's."""
        return self._tokenizer

    @cached_property
    def end_id(self) -> int:
        """Id of ``<|end|>``, the last token of an answer."""
        return self._id("<|end|>")

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Ids at which generation stops: ``<|end|>`` and ``<|endoftext|>``."""
        return (self.end_id, self._id("<|endoftext|>"))

    @cached_property
    def _text_counter(self) -> TokenCounter:
        return TokenCounter(self._text_tokenizer)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, special tokens counted."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def prompt_ids(self, picture_tokens: Sequence[int]) -> Ids:
        """Return the ids (tokens,) up to where the answer begins; ``picture_tokens``: token count of each picture."""
        pieces = self._text_pieces(len(picture_tokens))
        return np.array(around_pictures(pieces, picture_tokens), dtype=np.int64)

    def prompt_text_tokens(self, pictures: int) -> int:
        """Return the tokens of a prompt with this many pictures, the pictures' own tokens left out."""
        return sum(map(len, self._text_pieces(pictures)))

    def _text_pieces(self, pictures: int) -> list[list[int]]:
        """Ids of the texts before, between (a lone BOS) and after the pictures."""
        if pictures not in self._pieces:
            texts = [_BEGINNING, *[""] * (pictures - 1), self._after_pictures]
            if pictures == 0:
                texts = ["".join(texts)]
            self._pieces[pictures] = [self._tokenizer.encode(text).ids for text in texts]
        return self._pieces[pictures]

    def answer_ids(self, answer: str) -> Ids:
        """Return the ids (tokens,) of an answer and its ``<|end|>``, without BOS."""
        return np.array([*self._text_tokenizer.encode(answer).ids, self.end_id], dtype=np.int64)

    def answer_tokens(self, answers: Sequence[str]) -> Ids:
        """Return the length (answers,) of ``answer_ids`` for many answers."""
        return self._text_counter.counts(answers) + 1

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Return the text of ids; special tokens and picture places are left out."""
        return self._tokenizer.decode([int(token) for token in ids if token >= 0], skip_special_tokens=True)
