"""A finished model folder scored on a split of a shard folder.

Enters: a model folder, a shard folder, the name of a split. Leaves: ``evaluation.json`` (scores, under ``baseline``
those of answerers that never look) and ``predictions.jsonl`` (one line per product), each whole or absent.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from phi3v_dist.checkpoints.card import read_facts
from phi3v_dist.config.options import DocumentOptions, EvaluationOptions
from phi3v_dist.console import say, table
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.errors import HardwareError, ModelFolderError, ShardError
from phi3v_dist.evaluation.answers import ParsedAnswer, Prediction
from phi3v_dist.evaluation.generate import answer_samples
from phi3v_dist.evaluation.scores import baselines, score
from phi3v_dist.files import write_json, write_text
from phi3v_dist.model import Phi3VForCausalLM
from phi3v_dist.model.attention import choose_kernel
from phi3v_dist.model.check import check_shapes
from phi3v_dist.shards.index import ShardIndex, load_index
from phi3v_dist.shards.read import ShardReader

EVALUATION_FILE = "evaluation.json"
PREDICTIONS_FILE = "predictions.jsonl"


def evaluate_folder(
    model_folder: Path,
    shards_folder: Path,
    split: str = "heldout",
    *,
    output_folder: Path | None = None,
    max_new_tokens: int = EvaluationOptions().max_new_tokens,
    batch_products: int = 64,
    device: str = "auto",
) -> dict[str, Any]:
    """Answer every product of ``split``, write scores and predictions, and return the scores.

    The model is asked with the prompt and the RoPE factors that it was trained with (``checkpoints.card``).
    ``output_folder``: default is the folder that holds the model folder. Raises ``ModelFolderError``, ``ShardError``,
    ``HardwareError``.
    """
    _check_model_folder(model_folder)
    device = _device(device)
    index = load_index(shards_folder)
    numbers, train_numbers = (_numbers(index, name, shards_folder) for name in (split, "train"))
    trained = read_facts(model_folder)
    model = _load_model(model_folder, device)
    model.rope_mode = trained["rope_mode"]
    processor = DocumentProcessor.from_folder(model_folder, DocumentOptions(template=trained["template"]))
    predictions = answer_samples(
        model,
        processor,
        ShardReader(index),
        numbers.tolist(),
        max_new_tokens=max_new_tokens,
        batch_products=batch_products,
        show_progress=True,
    )
    evaluation = evaluation_of(predictions, _truths(index, train_numbers)) | {"split": split}
    output_folder = output_folder or model_folder.absolute().parent
    write_text(output_folder / PREDICTIONS_FILE, "".join(_json_line(prediction) for prediction in predictions))
    write_json(output_folder / EVALUATION_FILE, evaluation)
    say(f"wrote {output_folder / EVALUATION_FILE} and {PREDICTIONS_FILE}: {len(predictions)} products of {split}")
    return evaluation


def evaluation_of(predictions: Sequence[Prediction], train_truths: Sequence[ParsedAnswer]) -> dict[str, Any]:
    """Return the scores of the predictions, and under ``baseline`` those of the answerers of ``scores.baselines``."""
    truths = [prediction.truth for prediction in predictions]
    scores = score(truths, [prediction.parsed for prediction in predictions])
    return {**scores, "baseline": baselines(train_truths, truths)}


def print_scores(evaluation: dict[str, Any]) -> None:
    """Print a table: the model beside the baselines, a row per score."""
    baseline = evaluation["baseline"]
    columns = {
        "model": evaluation,
        "without looking": baseline["most_frequent_category"],
        "told the category": baseline["category_median"],
    }
    names = [name for name, value in evaluation.items() if isinstance(value, float)]
    rows = [[name, *(f"{scores[name]:.3f}" for scores in columns.values())] for name in names]
    table(f"{evaluation['count']} products of {evaluation['split']}", ["score", *columns], rows)


def _check_model_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelFolderError(
            "no config.json in this folder" if folder.is_dir() else "no such folder",
            where=str(folder),
            mend="Name a model folder, or make one: python tools/consolidate.py RUN_FOLDER MODEL_FOLDER",
        )
    check_shapes(folder)  # from_pretrained would draw a missing tensor at random, with a warning


def _load_model(folder: Path, device: str) -> Phi3VForCausalLM:
    disable_progress_bar()
    # A CPU computes bf16 slower than float32, which holds every bf16 weight exactly.
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = Phi3VForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    model.attention_kernel, _ = choose_kernel("auto", device, dtype)
    return model


def _numbers(index: ShardIndex, split: str, folder: Path) -> np.ndarray:
    numbers = index.numbers(split)
    if not len(numbers):
        raise ShardError(
            "the split has no samples (baselines need train)",
            where=str(folder),
            value=split,
            mend="Give a split that is there, or change catalog.heldout_share and make shards anew.",
        )
    return numbers


def _truths(index: ShardIndex, numbers: np.ndarray) -> list[ParsedAnswer]:
    columns = (index.column(name)[numbers] for name in ("title", "category", "price"))
    return [ParsedAnswer(title, category, float(price)) for title, category, price in zip(*columns, strict=True)]


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise HardwareError("there is no CUDA device", where="--device", value=name, mend="Use --device cpu.")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _json_line(prediction: Prediction) -> str:
    return json.dumps(prediction.as_line(), ensure_ascii=False) + "\n"
