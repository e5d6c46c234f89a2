"""The model's answers to products that it may never have seen.

Enters: model, processor, a reader of shards and sample numbers. Leaves: one prediction per number, in that order. The
model is only asked for text; what the text is worth is decided in ``scores``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from phi3v_dist.console import log, progress
from phi3v_dist.documents.crops import finish_crops
from phi3v_dist.documents.processor import DocumentProcessor, Prompt
from phi3v_dist.evaluation.answers import Prediction, parse_answer
from phi3v_dist.images import ImageError, open_image
from phi3v_dist.model.generation import generate
from phi3v_dist.model.phi3v import Phi3VForCausalLM
from phi3v_dist.shards.read import DamagedSample, ShardReader
from phi3v_dist.tracking.predictions import ShownPrediction


def answer_samples(
    model: Phi3VForCausalLM,
    processor: DocumentProcessor,
    reader: ShardReader,
    numbers: Sequence[int],
    *,
    max_new_tokens: int,
    batch_products: int = 64,
    everyone_done: Callable[[bool], bool] | None = None,
    show_progress: bool = False,
) -> list[Prediction]:
    """Return the greedy answer of the model to each sample, ``batch_products`` at a time.

    Under ZeRO-3 every rank must call this with equally many batches, and ``everyone_done`` must say whether all
    ranks are done (see ``model.generation.generate``). A damaged sample is asked with blank pictures, so that ranks
    stay in step; it is named in the log and its answer counts as one that doesn't parse.
    """
    batches = [numbers[first : first + batch_products] for first in range(0, len(numbers), batch_products)]
    shown = progress(batches, f"answers, batches of {batch_products}", len(batches)) if show_progress else batches
    predictions: list[Prediction] = []
    for batch in shown:
        asked = [_question(processor, reader, int(number)) for number in batch]
        answers = _answers(model, processor, [prompt for prompt, _ in asked], max_new_tokens, everyone_done)
        for number, answer, (_, damaged) in zip(batch, answers, asked, strict=True):
            predictions.append(_prediction(reader.index.row(int(number)), "" if damaged else answer))
    return predictions


def _question(processor: DocumentProcessor, reader: ShardReader, number: int) -> tuple[Prompt, bool]:
    """Return the prompt of a sample and whether it is damaged."""
    try:
        # No limit of size: pictures in shards were checked when the shards were made.
        pictures = [open_image(image, max_megapixels=math.inf) for image in reader.sample(number).images]
        return processor.prompt(pictures), False
    except (DamagedSample, ImageError) as error:
        log.warning("sample %d is damaged and was asked with blank pictures: %s", number, error)
        return processor.blank_document(number, [processor.grid(*size) for size in reader.index.sizes(number)]), True


def show_predictions(predictions: Sequence[Prediction], reader: ShardReader) -> list[ShownPrediction]:
    """Return the predictions with their first pictures (white where damaged), for ``Tracker.log_predictions``."""
    return [
        ShownPrediction(
            picture=_picture(reader, prediction.sample),
            truth=f"{prediction.title} | {prediction.category} | {prediction.price:g}",
            answer=prediction.answer,
            fields=prediction.as_line(),
        )
        for prediction in predictions
    ]


def _picture(reader: ShardReader, number: int) -> Image.Image:
    try:
        return open_image(reader.sample(number).images[0], max_megapixels=math.inf)
    except (DamagedSample, ImageError):
        return Image.new("RGB", reader.index.sizes(number)[0], "white")


def _answers(
    model: Phi3VForCausalLM,
    processor: DocumentProcessor,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    everyone_done: Callable[[bool], bool] | None,
) -> list[str]:
    agree = {} if everyone_done is None else {"everyone_done": everyone_done}
    new_ids = generate(model, prompts, _pixels(model, prompts), max_new_tokens, processor.end_ids, **agree)
    return [processor.decode(ids) for ids in new_ids]


def _pixels(model: Phi3VForCausalLM, prompts: Sequence[Prompt]) -> torch.Tensor:
    """(pictures + crops, 3, S, S) of all prompts, in the model's precision, where the model is."""
    weight = model.lm_head.weight
    crops = torch.from_numpy(np.concatenate([crops for prompt in prompts for crops in prompt.crops])).to(weight.device)
    return finish_crops(crops, [grid for prompt in prompts for grid in prompt.grids], weight.dtype)


def _prediction(truth: dict[str, Any], answer: str) -> Prediction:
    return Prediction(
        sample=truth["sample"],
        product_code=truth["product_code"],
        title=truth["title"],
        category=truth["category"],
        price=truth["price"],
        answer=answer,
        parsed=parse_answer(answer),
    )
