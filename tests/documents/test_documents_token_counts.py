"""Counting word by word gives what tokenising the whole text gives, or isn't done."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from phi3v_dist.documents import token_counts
from phi3v_dist.documents.demo_tokenizer import build_demo_tokenizer
from phi3v_dist.documents.token_counts import TokenCounter, has_borders

words = st.sampled_from(
    ["Check", "Größe", "▁", " ", "  ", "0", "1290.55", "<0x41>", "\n", "e", "é", "包", "🧣", "N°5", "ﬁ"]
)
texts = st.one_of(st.text(max_size=30), st.lists(words, max_size=12).map("".join))


def _build(content: dict) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(content))


def _content(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) | {"added_tokens": [], "post_processor": None}


@pytest.fixture(scope="module", params=["phi3v", "phi35v"])
def official(request: pytest.FixtureRequest, official_folder: Path) -> tuple[TokenCounter, Tokenizer]:
    content = _content(official_folder.parent / request.param / "tokenizer.json")
    assert has_borders(json.loads(_build(content).to_str()))
    return TokenCounter(_build(content)), _build(content)


@given(st.lists(texts, max_size=6))
@settings(max_examples=500)
def test_official_counts_are_those_of_whole_texts(official: tuple[TokenCounter, Tokenizer], texts: list[str]):
    counter, whole = official
    assert counter.counts(texts).tolist() == [len(whole.encode(text).ids) for text in texts]


@pytest.fixture(scope="module")
def plain() -> dict:
    """A tokenizer of the official kind, learned from a few texts."""
    content = json.loads(build_demo_tokenizer(["Product: red bag, Category: Bags, Full Price: 19.9"] * 3).to_str())
    content |= {"added_tokens": [], "post_processor": None, "pre_tokenizer": None}
    assert has_borders(content)
    return content


@given(texts=st.lists(texts, max_size=6))
def test_counts_of_a_learned_tokenizer_are_those_of_whole_texts(plain: dict, texts: list[str]):
    whole = _build(plain)
    assert TokenCounter(whole).counts(texts).tolist() == [len(whole.encode(text).ids) for text in texts]


def test_words_forgotten_are_counted_again(plain: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_counts, "_MOST_WORDS", 3)
    counter, whole = TokenCounter(_build(plain)), _build(plain)
    for text in ("red bag 1", "blue bags 22", "red bag 1", ""):
        assert counter.counts([text, text]).tolist() == [len(whole.encode(text).ids)] * 2


def _with_merge(content: dict, left: str, right: str) -> dict:
    vocabulary = content["model"]["vocab"]
    vocabulary |= {
        part: len(vocabulary) + n for n, part in enumerate((left, right, left + right)) if part not in vocabulary
    }
    return content | {"model": content["model"] | {"vocab": vocabulary, "merges": [[left, right]]}}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: _with_merge(content, "d", "▁"),
        lambda content: _with_merge(content, "1", "9"),
        lambda content: _with_merge(content, "▁", "1"),
        lambda content: _with_merge(content, "e", "1"),
        lambda content: content | {"normalizer": None},
        lambda content: content | {"pre_tokenizer": {"type": "Digits", "individual_digits": True}},
        lambda content: content | {"model": content["model"] | {"ignore_merges": True}},
        lambda content: content | {"model": content["model"] | {"byte_fallback": False}},
    ],
)
def test_a_tokenizer_without_sure_borders_counts_whole_texts(plain: dict, change: Callable[[dict], dict]):
    content = change(json.loads(json.dumps(plain)))
    assert not has_borders(json.loads(_build(content).to_str()))
    whole, texts = _build(content), ["red bag 19", "", "red e1 ▁bag 包", "d d d"]
    assert TokenCounter(whole).counts(texts).tolist() == [len(whole.encode(text).ids) for text in texts]
