"""Arrays of many millions of rows that lie in files, so that they cost a process no memory of its own.

Enters: shapes, and rows block by block. Leaves: numpy arrays whose pages are the kernel's, which it writes out when
somebody needs the memory; sorted in place, where ``argsort`` and ``unique`` make three copies. Whoever works on such
an array goes through it in ``blocks``: what a block needs is all that is ever in memory.
"""

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

BLOCK = 16_384
# Like ``np.zeros``, which is one: of a shape and a dtype, zeros.
NewArray = Callable[[int | tuple[int, ...], str], np.ndarray]


def arrays_in(folder: Path) -> NewArray:
    """Makes arrays in files of ``folder`` that have no name: they are gone with the last who uses them.

    Raises ``OSError`` when the disk is full: then, not with a signal while the array is written to.
    """

    def new(shape: int | tuple[int, ...], dtype: str) -> np.ndarray:
        if not (size := _bytes(shape, dtype)):
            return np.zeros(shape, dtype)  # nothing can be mapped of an empty file
        with tempfile.TemporaryFile(dir=folder) as stream:
            os.posix_fallocate(stream.fileno(), 0, size)
            return np.asarray(np.memmap(stream, dtype, "r+", shape=shape))

    return new


def new_file(path: Path, shape: int | tuple[int, ...], dtype: str) -> np.memmap:
    """A new .npy file, to be written to and then flushed: zeros. Raises ``OSError`` when the disk is full."""
    if not (size := _bytes(shape, dtype)):
        with open(path, "wb") as stream:  # np.save would add .npy to a path without it
            np.save(stream, np.zeros(shape, dtype))
        return np.zeros(shape, dtype).view(np.memmap)
    array = np.lib.format.open_memmap(path, "w+", dtype, (shape,) if isinstance(shape, int) else shape)
    with open(path, "r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, array.offset + size)
    return array


def _bytes(shape: int | tuple[int, ...], dtype: str) -> int:
    return math.prod((shape,) if isinstance(shape, int) else shape) * np.dtype(dtype).itemsize


def open_file(path: Path) -> np.ndarray:
    """A .npy file, to be read."""
    empty = path.stat().st_size <= 128
    # As a plain array: taking a row of a memmap makes a memmap, which takes ten times as long.
    return np.asarray(np.load(path, mmap_mode=None if empty else "r"))


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most ``BLOCK`` that cover 0 to ``count`` - 1."""
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def numbers(new: NewArray, count: int) -> np.ndarray:
    """0 to ``count`` - 1, int64."""
    array = new(count, "i8")
    for part in blocks(count):
        array[part] = np.arange(part.start, part.stop)
    return array


def chosen(new: NewArray, count: int, choose: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Numbers of the rows that are chosen, int64, rising. ``choose``: of some rows, which are, bool."""
    found = new(sum(int(choose(part).sum()) for part in blocks(count)), "i8")
    stop = 0
    for part in blocks(count):
        some = np.flatnonzero(choose(part)) + part.start
        stop += len(some)
        found[stop - len(some) : stop] = some
    return found


class Sorting:
    """Row numbers in the order of keys: the highest bits of a key and the row's number share 64 bits, sorted in place.

    So rows whose keys differ only below those bits (44 of a million rows, 37 of a hundred million) stand by number.
    """

    def __init__(self, new: NewArray, count: int, keys: Callable[[slice], np.ndarray]) -> None:
        """``keys``: of some rows, uint64."""
        self._of_number = np.uint64((1 << max(1, (count - 1).bit_length())) - 1)
        self._sorted = new(count, "u8")
        for part in blocks(count):
            numbers = np.arange(part.start, part.stop, dtype=np.uint64)
            self._sorted[part] = (keys(part) & ~self._of_number) | numbers
        self._sorted.sort()

    def __getitem__(self, part: slice) -> np.ndarray:
        """Row numbers of some places, int64."""
        return (self._sorted[part] & self._of_number).astype(np.int64)

    def whole_blocks(self) -> Iterator[np.ndarray]:
        """All row numbers in blocks, int64; those whose keys have the same highest bits are in one."""
        start, count = 0, len(self._sorted)
        while start < count:
            stop = min(start + BLOCK, count)
            last = self._sorted[stop - 1] | self._of_number
            stop += int(np.searchsorted(self._sorted[stop:], last, "right"))
            yield self[slice(start, stop)]
            start = stop
