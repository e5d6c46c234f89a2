"""The lengths of all documents, counted once per node and then mapped: in a moment, in nobody's own memory.

Enters: a ``ShardIndex``, a ``DocumentProcessor``. Leaves: ``DocumentLengths`` as views of a file that all processes of
a node share. Its name is a hash of all that decides a length, so it can't belong to other shards, another tokenizer or
other crops.

::

    CACHE/lengths/<hash>.int32    tokens, supervised, crops: (samples,) each; then 8 bytes, XXH3-64 of them

Where nothing can be written each process counts for itself; so it does for a small index, where counting takes no
longer than mapping.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from phi3v_dist.console import log, progress
from phi3v_dist.documents.lengths import BLOCK_SAMPLES, Counts, DocumentLengths, document_lengths, length_blocks
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.files import atomic_path, clean_cache, locked
from phi3v_dist.shards.index import ShardIndex
from phi3v_dist.shards.index_cache import cache_root

_LAYOUT = 1  # to be raised when the formula of crops or their tokens changes
_SMALL_SAMPLES = 10_000
_MOST_FILES = 8  # of other lengths; those of a million samples are 12 MB
_COLUMNS = 3
_CHECKSUM_BYTES = 8


def cached_lengths(
    index: ShardIndex, processor: DocumentProcessor, cache_folder: str | Path | None = None
) -> DocumentLengths:
    """Return the counts of all samples of ``index``, read-only; ``cache_folder`` as in ``shards.index.load_index``.

    To be called before the process forks loader processes, which turns the tokenizer's threads off for good.
    Raises DocumentError for a price that is no number.
    """
    if len(index) < _SMALL_SAMPLES:
        return document_lengths(index.table, processor)

    def counted() -> Iterable[Counts]:
        total = -(-len(index) // BLOCK_SAMPLES)
        return progress(length_blocks(index.table, processor), f"lengths, {BLOCK_SAMPLES:,} documents at a time", total)

    try:
        return _kept(lengths_file(index, processor, cache_folder), len(index), counted)
    except OSError as error:
        log.warning(
            "%s: lengths of documents can't be kept there (%s), each process counts them anew. Set "
            "shards.cache_folder to a folder that can be written",
            cache_root(cache_folder) / "lengths",
            error.strerror or error,
        )
        return document_lengths(index.table, processor)


def joined_lengths(
    indexes: Sequence[ShardIndex], processor: DocumentProcessor, cache_folder: str | Path | None = None
) -> DocumentLengths:
    """Return the counts of several indexes, one behind the other, as ``cached_lengths`` does of one."""
    if len(indexes) == 1:
        return cached_lengths(indexes[0], processor, cache_folder)
    samples = sum(map(len, indexes))
    path = _file_of([lengths_file(index, processor, cache_folder).name for index in indexes], cache_folder)
    found = _map(path, samples)
    if found is not None:
        return found
    # Not while _kept holds the folder's lock, which they take too.
    parts = [cached_lengths(index, processor, cache_folder) for index in indexes]
    if samples >= _SMALL_SAMPLES:
        with contextlib.suppress(OSError):  # counting has told where nothing can be written
            return _kept(path, samples, lambda: (block for part in parts for block in _blocks_of(part)))
    return DocumentLengths(*np.concatenate([list(vars(part).values()) for part in parts], axis=1))


def lengths_file(index: ShardIndex, processor: DocumentProcessor, cache_folder: str | Path | None = None) -> Path:
    """Where the lengths lie or will lie."""
    told = [_LAYOUT, index.index_hash, processor.template.fingerprint, processor.num_crops, processor.crop_size]
    return _file_of(told, cache_folder)


def _file_of(told: Sequence[object], cache_folder: str | Path | None) -> Path:
    name = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
    return cache_root(cache_folder) / "lengths" / f"{name}.int32"


def _blocks_of(lengths: DocumentLengths) -> Iterator[Counts]:
    for first in range(0, len(lengths.tokens), BLOCK_SAMPLES):
        yield np.stack([column[first : first + BLOCK_SAMPLES] for column in vars(lengths).values()])


def _map(path: Path, samples: int) -> DocumentLengths | None:
    """The lengths as views of a whole file, marked as used now; None where there is none, or it is damaged."""
    try:
        if path.stat().st_size != _bytes_of(samples) + _CHECKSUM_BYTES:
            return None
        counts = _view(path, samples)
        with open(path, "rb") as handle:
            handle.seek(_bytes_of(samples))
            if handle.read() != xxhash.xxh3_64_digest(counts.data):
                return None
    except OSError:
        return None
    with contextlib.suppress(OSError):  # another user's, and readable: as good
        os.utime(path)
    return DocumentLengths(*counts)


def _kept(path: Path, samples: int, count: Callable[[], Iterable[Counts]]) -> DocumentLengths:
    """Map the file; where there is none, one process counts and writes it and others wait. Raises ``OSError``."""
    found = _map(path, samples)
    if found is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / ".lock"):
        found = _map(path, samples)
        if found is not None:
            return found
        if path.exists():
            log.warning("%s: damaged, made anew", path)
        _write(path, count(), samples)
        clean_cache(path, _MOST_FILES)
    found = _map(path, samples)
    if found is None:
        raise OSError(f"{path} isn't what was written")
    return found


def _write(path: Path, blocks: Iterable[Counts], samples: int) -> None:
    """Write each block's columns at their places: with ``write``, since a mapped file on a full disk is a SIGBUS."""
    first = 0
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as handle:
            for block in blocks:
                for column, counts in enumerate(block):
                    handle.seek((column * samples + first) * counts.itemsize)
                    handle.write(counts.tobytes())
                first += block.shape[1]
        checksum = xxhash.xxh3_64_digest(_view(temporary, samples).data)
        with open(temporary, "ab") as handle:
            handle.write(checksum)


def _view(path: Path, samples: int) -> Counts:
    """The numbers of a file, (3, samples), mapped."""
    return np.asarray(np.memmap(path, np.int32, mode="r", shape=(_COLUMNS, samples)))


def _bytes_of(samples: int) -> int:
    return _COLUMNS * samples * np.dtype(np.int32).itemsize
