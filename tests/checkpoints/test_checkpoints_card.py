"""The model card: what it tells, when it warns, and where it stands in a README. vLLM's rule: facts phi3v.md, 9.3."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.checkpoints.card import BEGIN, END, Training, model_card, serving_advice, with_card

TRAINED = Training(
    base="Phi-3-vision-128k-instruct",
    steps=1234,
    template="mission",
    num_crops=16,
    rope_mode="per_document",
    rope_border=4096,
    longest_document=2900,
)


def trained(**changes: object) -> Training:
    return dataclasses.replace(TRAINED, **changes)


def advice(**changes: object) -> str:
    return " ".join(serving_advice(trained(**changes)))


def vllm_takes_long_factors(max_model_len: int, border: int) -> bool:
    return max_model_len > border


def test_card_tells_how_the_model_was_trained() -> None:
    card = model_card(TRAINED)
    for row in (
        "| began from | `Phi-3-vision-128k-instruct` |",
        "| optimizer steps | 1,234 |",
        "| `documents.template` | mission |",
        "| `num_crops` | 16 |",
        "| `model.rope_mode` | per_document |",
        "| longest document | 2,900 tokens |",
    ):
        assert row in card.splitlines()
    assert card.startswith(BEGIN)
    assert card.endswith(END + "\n")


@pytest.mark.parametrize(("template", "between"), [("mission", ""), ("official", "\\n")])
def test_card_spells_the_prompt_of_the_template(template: str, between: str) -> None:
    prompt = f"`<|user|>\\n<|image_1|>What is shown in this image?<|end|>{between}<|assistant|>\\n`"
    assert prompt in model_card(trained(template=template))


@given(
    st.sampled_from(["per_document", "short", "long"]),
    st.one_of(st.none(), st.integers(1, 200_000)),
    st.sampled_from([2048, 4096]),
)
def test_the_value_advised_makes_vllm_take_factors_that_were_trained(
    mode: str, longest: int | None, border: int
) -> None:
    text = advice(rope_mode=mode, longest_document=longest, rope_border=border)
    value = int(re.search(r"--max-model-len (\d+)", text)[1])
    assert vllm_takes_long_factors(value, border) == (mode == "long")
    if mode == "long" and longest is not None:
        assert value >= longest
    assert "**Warning**" in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "trained with the short RoPE factors alone"),
        ({"longest_document": 4096}, "trained with the short RoPE factors alone"),
        ({"longest_document": 4097}, "with the long ones above"),
        ({"longest_document": None}, "with the long ones above"),
        ({"rope_mode": "short", "longest_document": 9000}, "trained with the short RoPE factors alone"),
        ({"rope_mode": "long"}, "trained with the long RoPE factors throughout"),
    ],
)
def test_warning_says_which_factors_were_trained(changes: dict[str, object], told: str) -> None:
    assert told in advice(**changes)


def test_a_model_without_longrope_is_served_at_any_length() -> None:
    assert "any `--max-model-len`" in advice(rope_border=None)
    assert "Warning" not in advice(rope_border=None)


def test_a_run_that_did_not_record_its_longest_document_says_so() -> None:
    assert "| longest document | not recorded |" in model_card(trained(longest_document=None))


def test_card_alone_is_the_readme_where_the_base_has_none() -> None:
    assert with_card(None, "card\n") == "card\n"


def test_readme_of_the_base_stays_and_the_card_stands_at_its_end() -> None:
    assert with_card("---\nlicense: mit\n---\n# Base\n", "card\n") == "---\nlicense: mit\n---\n# Base\n\ncard\n"


def test_card_of_an_export_that_was_trained_again_is_replaced() -> None:
    once = with_card("# Base\n", model_card(TRAINED))
    twice = with_card(once, model_card(trained(steps=77)))
    assert twice == with_card("# Base\n", model_card(trained(steps=77)))
    assert with_card(model_card(TRAINED), model_card(trained(steps=77))) == model_card(trained(steps=77))


def test_text_that_someone_wrote_below_the_card_stays() -> None:
    readme = with_card("# Base\n", model_card(TRAINED)) + "\nMy notes\n"
    assert with_card(readme, f"{BEGIN}\nnew\n{END}\n") == f"# Base\n\n{BEGIN}\nnew\n{END}\n\nMy notes\n"
