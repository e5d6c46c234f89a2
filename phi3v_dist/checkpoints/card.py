"""The model card of an export: how the model was trained, and how to serve it so that it meets what it was trained on.

Enters: facts of a run. Leaves: Markdown between two marks, as a README.md of its own or at the end of the base's. The
one trap of serving is LongRoPE: Phi-3-Vision has two lists of factors, the official code takes one by the length of
each call, vLLM takes one for all prompts when it starts (facts: phi3v.md, 9.3).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from phi3v_dist.documents.prompt import prompt_text
from phi3v_dist.errors import ModelFolderError

FACTS = "phi3v_dist.json"  # the card for programs
BEGIN, END = "<!-- phi3v-dist: begin -->", "<!-- phi3v-dist: end -->"


@dataclass(frozen=True)
class Training:
    """How a model was trained.

    ``rope_border``: longest document (tokens) for the short factors, None where the model has no LongRoPE.
    ``longest_document``: the longest it was trained on (tokens), None where the run didn't tell.
    """

    base: str
    steps: int
    template: Literal["mission", "official"]
    num_crops: int
    rope_mode: Literal["per_document", "short", "long"]
    rope_border: int | None
    longest_document: int | None


def facts(trained: Training) -> str:
    """Return the same facts as JSON, the content of ``FACTS``: evaluation asks the model as it was trained."""
    return json.dumps(asdict(trained), indent=2, sort_keys=True) + "\n"


def read_facts(model_folder: Path) -> dict[str, Any]:
    """Return the facts of an export; of a folder that never went through one, those of the official models."""
    path = model_folder / FACTS
    if not path.is_file():
        return {"template": "mission", "rope_mode": "per_document"}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {name: told[name] for name in ("template", "rope_mode")}
    except (ValueError, KeyError, TypeError) as error:
        mend = "Export the run again: python tools/consolidate.py RUN_FOLDER MODEL_FOLDER"
        raise ModelFolderError(f"can't be read ({error!r})", where=str(path), mend=mend) from None


def model_card(trained: Training) -> str:
    """Return the card, marks included."""
    longest = "not recorded" if trained.longest_document is None else f"{trained.longest_document:,} tokens"
    prompt = prompt_text(trained.template).replace("\n", "\\n")
    lines = [
        BEGIN,
        "# Fine-tuned with phi3v-dist",
        "",
        "| | |",
        "| --- | --- |",
        f"| began from | `{trained.base}` |",
        f"| optimizer steps | {trained.steps:,} |",
        f"| `documents.template` | {trained.template} |",
        f"| `num_crops` | {trained.num_crops} |",
        f"| `model.rope_mode` | {trained.rope_mode} |",
        f"| longest document | {longest} |",
        "",
        f"Prompt (`\\n` is a line break): `{prompt}`.",
        "A chat endpoint whose template puts other characters there asks for something it was not trained on.",
        "",
        "## Serving",
        "",
        *serving_advice(trained),
        END,
    ]
    return "\n".join(lines) + "\n"


def serving_advice(trained: Training) -> list[str]:
    """Return the lines on ``--max-model-len`` of vLLM; a warning wherever a server can differ from training."""
    border, longest = trained.rope_border, trained.longest_document
    if border is None:
        return ["The model has no LongRoPE factors: any `--max-model-len` of vLLM serves it as it was trained."]
    rule = f"vLLM takes the long RoPE factors for every prompt if that value is above {border}, else the short ones."
    if trained.rope_mode == "long":
        return [
            f"Serve with vLLM's `--max-model-len {max(longest or 0, border + 1)}` or more.",
            f"**Warning**: trained with the long RoPE factors throughout. {rule}",
            f"The official code takes the short ones for prompts of up to {border} tokens: it differs from training.",
        ]
    advice = f"Serve with vLLM's `--max-model-len {border}`."
    if trained.rope_mode == "short" or (longest is not None and longest <= border):
        return [
            advice,
            f"**Warning**: trained with the short RoPE factors alone. {rule}",
            "With a larger value every answer differs from training.",
        ]
    return [
        advice,
        f"**Warning**: trained with the short RoPE factors up to {border} tokens, with the long ones above. {rule}",
        "Longer prompts need a larger value, with which short ones differ from training.",
        "To serve both alike, train with `model.rope_mode=long`.",
    ]


def with_card(readme: str | None, card: str) -> str:
    """Return the base's README with ``card`` at its end or in place of an earlier one; without a README the card."""
    if readme is None:
        return card
    before, begin, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2].lstrip("\n") if begin else ""
    parts = [part.rstrip("\n") + "\n" for part in (before, card, after) if part.strip()]
    return "\n".join(parts)
