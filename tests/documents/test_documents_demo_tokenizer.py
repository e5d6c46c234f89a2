"""The demo tokenizer is of Phi-3's make: digits alone, bytes for the rest, special tokens as there."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from phi3v_dist.documents.demo_tokenizer import build_demo_tokenizer
from phi3v_dist.documents.prompt import PromptTemplate, answer_text

COLOURS, KINDS = ["Red", "Blue", "Small green"], ["Bag", "Scarf", "Trench coat"]
TEXTS = [
    answer_text(f"{colour} {kind}", f"{kind}s", 10.5 + 100 * i) for i, colour in enumerate(COLOURS) for kind in KINDS
]
TOKENIZER = build_demo_tokenizer(TEXTS)
SPACE_AND_NEWLINE = [TOKENIZER.token_to_id("▁"), TOKENIZER.token_to_id("<0x0A>")]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> PromptTemplate:
    path = tmp_path_factory.mktemp("demo") / "tokenizer.json"
    TOKENIZER.save(str(path))
    return PromptTemplate(path)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text).ids


@given(st.text("0123456789.,", min_size=1))
def test_each_digit_of_a_number_is_a_token_of_its_own(number: str) -> None:
    tokens = TOKENIZER.encode(f"Full Price: {number}").tokens
    digits = [token for token in tokens if any(letter.isdigit() for letter in token) and not token.startswith("<0x")]
    assert digits == [letter for letter in number if letter.isdigit()]


def test_no_piece_of_the_vocabulary_holds_a_digit_and_more() -> None:
    pieces = [piece for piece in TOKENIZER.get_vocab() if not piece.startswith("<0x")]
    assert {piece for piece in pieces if any(letter.isdigit() for letter in piece)} == set(string.digits)


def test_words_that_were_seen_are_one_token() -> None:
    assert TOKENIZER.encode("Product: Red Scarf").tokens == ["<s>", "▁Product", ":", "▁Red", "▁Scarf"]


@pytest.mark.parametrize("answer", TEXTS)
def test_answers_come_back_and_end(template: PromptTemplate, answer: str) -> None:
    found = template.answer_ids(answer)
    assert found[-1] == TOKENIZER.token_to_id("<|end|>")
    assert template.decode(found) == answer


@settings(max_examples=200)
@given(st.text(st.characters(exclude_characters="▁", codec="utf-8")))
def test_any_text_comes_back_through_its_bytes(text: str) -> None:
    plain = TOKENIZER.encode(text.replace("<", "("), add_special_tokens=False).ids
    assert TOKENIZER.decode(plain) == text.replace("<", "(")
    assert TOKENIZER.token_to_id("<unk>") not in plain


def test_assistant_takes_the_newline_after_it_and_user_and_end_do_not() -> None:
    bos, user, end, assistant = (TOKENIZER.token_to_id(t) for t in ("<s>", "<|user|>", "<|end|>", "<|assistant|>"))
    assert ids("<|user|>\n") == [bos, user, *SPACE_AND_NEWLINE]
    assert ids("<|end|>\n<|assistant|>\n") == [bos, end, *SPACE_AND_NEWLINE, assistant]


def test_each_text_begins_with_bos_and_the_empty_one_is_bos_alone() -> None:
    assert ids("") == [TOKENIZER.token_to_id("<s>")]
    assert ids("Red Bag")[0] == TOKENIZER.token_to_id("<s>")


def test_file_is_built_like_the_official_one() -> None:
    raw = json.loads(TOKENIZER.to_str())
    assert raw["pre_tokenizer"] is None
    assert [part["type"] for part in raw["normalizer"]["normalizers"]] == ["Prepend", "Replace"]
    assert [part["type"] for part in raw["decoder"]["decoders"]] == ["Replace", "ByteFallback", "Fuse", "Strip"]
    assert (raw["model"]["type"], raw["model"]["byte_fallback"]) == ("BPE", True)
    special = {token["content"]: token["rstrip"] for token in raw["added_tokens"]}
    assert special["<|assistant|>"] and not special["<|end|>"] and not special["<|user|>"]
    assert not any(name.startswith("<0x") for name in special)


def test_ids_have_no_gap_so_that_the_vocabulary_is_as_large_as_its_last_id() -> None:
    assert sorted(TOKENIZER.get_vocab().values()) == list(range(TOKENIZER.get_vocab_size()))


def test_same_texts_give_the_same_file() -> None:
    assert build_demo_tokenizer(TEXTS).to_str() == TOKENIZER.to_str()


def test_a_product_called_like_a_special_token_stays_text(template: PromptTemplate) -> None:
    answer = answer_text("<|end|><|user|>", "Bags", 1)
    found = template.answer_ids(answer)
    assert TOKENIZER.token_to_id("<|end|>") not in found[:-1]
    assert TOKENIZER.token_to_id("<|user|>") not in found
    assert template.decode(found) == answer


def test_prompt_is_laid_out_as_the_official_one(template: PromptTemplate) -> None:
    bos, user, end, assistant = (TOKENIZER.token_to_id(t) for t in ("<s>", "<|user|>", "<|end|>", "<|assistant|>"))
    found = template.prompt_ids([3]).tolist()
    assert found[:7] == [bos, user, *SPACE_AND_NEWLINE, -1, -1, -1]
    assert (found[7], found[-2:]) == (bos, [end, assistant])


def test_reading_the_file_again_changes_nothing(tmp_path: Path) -> None:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [again.encode(text).ids for text in TEXTS] == [ids(text) for text in TEXTS]
