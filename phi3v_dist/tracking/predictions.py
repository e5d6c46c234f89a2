"""What a validation shows of its answers: pictures beside truth and answer.

Enters: generated answers with their pictures, from the room above. Leaves: ``predictions/step-N.jsonl`` in the run
folder, and the pictures small enough for a table in a browser.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from phi3v_dist.files import write_text
from phi3v_dist.images import open_image

LONGEST_SIDE = 336  # pixels; a table of full-size pictures would be megabytes per validation


@dataclass(frozen=True)
class ShownPrediction:
    """One answer as it is shown. ``picture``: file content, path or open picture; ``fields``: the JSON line."""

    picture: bytes | Path | Image.Image
    truth: str
    answer: str
    fields: dict[str, Any] = field(default_factory=dict)


class PredictionFiles:
    """Backend that writes ``predictions/step-N.jsonl``, whole or absent."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / "predictions"

    def log_predictions(self, step: int, predictions: Sequence[ShownPrediction]) -> None:
        """Write one line per prediction: ``truth``, ``answer`` and its other fields."""
        lines = ({"truth": shown.truth, "answer": shown.answer, **shown.fields} for shown in predictions)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(self._folder / f"step-{step}.jsonl", text)


def small_picture(picture: bytes | Path | Image.Image) -> Image.Image:
    """Return the picture as RGB, upright, its longest side at most ``LONGEST_SIDE`` pixels."""
    # No limit of size: pictures in shards were checked when the shards were made.
    if isinstance(picture, Path):
        picture = picture.read_bytes()
    opened = open_image(picture, max_megapixels=math.inf) if isinstance(picture, bytes) else picture.convert("RGB")
    opened.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return opened
