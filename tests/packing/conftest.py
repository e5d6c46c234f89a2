"""A reader and a processor of plain numbers, so that the tests of packing need neither shards nor a tokenizer."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from phi3v_dist.documents.crops import white_crops
from phi3v_dist.documents.processor import Document
from phi3v_dist.errors import ShardError
from phi3v_dist.shards.read import DamagedSample


class NumberReader:
    """Sample n is the number n. Some are damaged, one finds its shard gone, some wait for ever."""

    def __init__(
        self, damaged: tuple[int, ...] = (), gone: int | None = None, hanging: tuple[int, ...] = (), delay: float = 0.0
    ) -> None:
        self.damaged = damaged
        self.gone = gone
        self.hanging = hanging
        self.delay = delay
        self.index = self

    def sample(self, number: int) -> int:
        if number in self.hanging:
            time.sleep(3600)  # a file system that doesn't answer
        time.sleep(self.delay)
        if number in self.damaged:
            raise DamagedSample("train/0.tar", 512, "k", "truncated")
        if number == self.gone:
            raise ShardError("can't be read", where="train/0.tar", mend="Mount the disk", value=number)
        return number

    def samples(self, numbers: list[int]) -> Iterator[int | DamagedSample]:
        for number in numbers:
            try:
                yield self.sample(number)
            except DamagedSample as damage:
                yield damage

    def sizes(self, number: int) -> list:
        return [(20, 10)]

    def row(self, number: int) -> dict[str, str]:
        return {"key": f"k{number}", "shard": "train/0.tar"}


class NumberProcessor:
    """Sample n is a document of ``lengths[n]`` ids: picture, question, and an answer of two tokens n, 1.

    Longer than 64, it has an answer of 20 tokens.
    """

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths = lengths

    def grid(self, width: int, height: int) -> tuple[int, int]:
        return (1, 2)

    def document(self, sample: int) -> Document:
        ids = np.full(self.lengths[sample], 5, dtype=np.int64)
        ids[0], ids[-2:] = -1, (sample, 1)
        labels = np.full_like(ids, -100)
        answer = 20 if len(ids) > 64 else 2
        labels[-answer:] = ids[-answer:]
        crops = np.full((2, 3, 4, 4), sample % 256, dtype=np.uint8)
        return Document(ids, [crops], [(1, 2)], labels, sample)

    def blank_document(self, sample: int, grids: list, tokens: int | None = None, damage: str | None = None):
        ids = np.full(tokens or 3, 5, dtype=np.int64)
        crops = [white_crops(grid, 4) for grid in grids]
        return Document(ids, crops, list(grids), np.full_like(ids, -100), sample, damage)


@pytest.fixture(scope="session")
def number_reader() -> type[NumberReader]:
    return NumberReader


@pytest.fixture(scope="session")
def number_processor() -> type[NumberProcessor]:
    return NumberProcessor
