"""The kept lengths: counted once, mapped by all, never believed when anything that decides a length has changed."""

import logging
import multiprocessing
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.documents import length_cache, lengths
from phi3v_dist.documents.length_cache import cached_lengths, joined_lengths, lengths_file
from phi3v_dist.documents.lengths import DocumentLengths, document_lengths
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.files import write_text
from phi3v_dist.shards.index import ShardIndex

SAMPLES = 50
pictures = pa.array([[20 + n, 30] if n % 3 else [] for n in range(SAMPLES)], pa.list_(pa.int32()))
TABLE = pa.table(
    {
        "title": [f"Bag {n}" * (n % 4) for n in range(SAMPLES)],
        "category": ["Bags"] * SAMPLES,
        "price": [n + 0.5 for n in range(SAMPLES)],
        "width": pictures,
        "height": pictures,
    }
)
INDEX = ShardIndex(Path("shards"), TABLE, "0" * 64)


@pytest.fixture(autouse=True)
def keep_small_ones_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(length_cache, "_SMALL_SAMPLES", 0)
    monkeypatch.setattr(lengths, "BLOCK_SAMPLES", 7)


@pytest.fixture
def processor(tiny_folder: Path) -> DocumentProcessor:
    return DocumentProcessor.from_folder(tiny_folder, DocumentOptions())


def _columns(found: DocumentLengths) -> list[list[int]]:
    return [found.tokens.tolist(), found.supervised.tolist(), found.crops.tolist()]


def _uncounted(*_: object) -> None:
    raise AssertionError("counted though the lengths were there")


def test_counted_once_and_then_mapped(processor: DocumentProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    truth = _columns(document_lengths(TABLE, processor))
    assert _columns(cached_lengths(INDEX, processor, tmp_path)) == truth
    monkeypatch.setattr(length_cache, "length_blocks", _uncounted)
    monkeypatch.setattr(length_cache, "document_lengths", _uncounted)
    found = cached_lengths(INDEX, processor, tmp_path)
    assert _columns(found) == truth
    for counts in (found.tokens, found.supervised, found.crops):
        assert counts.dtype == np.int32 and not counts.flags.owndata and not counts.flags.writeable
    assert str(lengths_file(INDEX, processor, tmp_path)) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("small", [1, 10_000_000])
def test_lengths_of_several_indexes_stand_one_behind_the_other(
    processor: DocumentProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
):
    monkeypatch.setattr(length_cache, "_SMALL_SAMPLES", small)
    monkeypatch.setattr(length_cache, "BLOCK_SAMPLES", 7)  # several blocks of a part
    few = replace(INDEX, index_hash="1" * 64, table=TABLE.slice(3, 40))
    truth = [_columns(document_lengths(table, processor)) for table in (few.table, TABLE)]
    for _ in range(2):
        found = _columns(joined_lengths([few, INDEX], processor, tmp_path))
        assert found == [first + second for first, second in zip(*truth, strict=True)]
    assert _columns(joined_lengths([INDEX], processor, tmp_path)) == truth[1]
    assert len(list(tmp_path.glob("lengths/*.int32"))) == (3 if small == 1 else 0)


def test_whatever_decides_a_length_is_in_the_name(tiny_folder: Path, tmp_path: Path):
    changed = tmp_path / "changed"
    changed.mkdir()
    content = (tiny_folder / "tokenizer.json").read_text(encoding="utf-8")
    write_text(changed / "tokenizer.json", content.replace("\n", "", 1))
    for folder, crop_size in ((tmp_path, 84), (changed, 56)):
        write_text(folder / "preprocessor_config.json", f'{{"num_crops": 4, "crop_size": {crop_size}}}')
    write_text(tmp_path / "tokenizer.json", content)
    of = DocumentProcessor.from_folder
    processors = [
        of(tiny_folder, DocumentOptions()),
        of(tiny_folder, DocumentOptions(num_crops=16)),
        of(tiny_folder, DocumentOptions(template="official")),
        of(tmp_path, DocumentOptions()),
        of(changed, DocumentOptions()),
    ]
    files = [lengths_file(INDEX, processor, tmp_path) for processor in processors]
    files.append(lengths_file(replace(INDEX, index_hash="1" * 64), processors[0], tmp_path))
    assert len(set(files)) == len(files)
    assert lengths_file(INDEX, of(tiny_folder, DocumentOptions(num_crops=4)), tmp_path) == files[0]


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "bit", "checksum"])
def test_a_damaged_file_is_made_anew_with_one_line(
    processor: DocumentProcessor, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
):
    truth = _columns(cached_lengths(INDEX, processor, tmp_path))
    path = lengths_file(INDEX, processor, tmp_path)
    whole = path.read_bytes()
    broken = {
        "empty": b"",
        "cut": whole[:-9],
        "longer": whole + b"0",
        "bit": bytes([whole[0] ^ 1]) + whole[1:],
        "checksum": whole[:-1] + bytes([whole[-1] ^ 1]),
    }[damage]
    path.write_bytes(broken)
    with caplog.at_level(logging.WARNING, "phi3v_dist"):
        assert _columns(cached_lengths(INDEX, processor, tmp_path)) == truth
    assert [record.getMessage() for record in caplog.records] == [f"{path}: damaged, made anew"]
    assert path.read_bytes() == whole


def test_where_nothing_can_be_written_lengths_are_counted_with_a_warning(
    processor: DocumentProcessor, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING, "phi3v_dist"):
        found = cached_lengths(INDEX, processor, tmp_path / "file")
    assert _columns(found) == _columns(document_lengths(TABLE, processor))
    (record,) = caplog.records
    assert re.search(r"file/lengths: lengths .* \(Not a directory\).* Set shards.cache_folder", record.getMessage())


def test_a_small_index_is_counted_and_not_kept(
    processor: DocumentProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(length_cache, "_SMALL_SAMPLES", SAMPLES + 1)
    assert _columns(cached_lengths(INDEX, processor, tmp_path)) == _columns(document_lengths(TABLE, processor))
    assert list(tmp_path.iterdir()) == []


def _count_slowly(table: pa.Table, processor: DocumentProcessor):
    with open(os.environ["COUNTED_BY"], "a") as handle:
        handle.write(f"{os.getpid()}\n")
    for block in lengths.length_blocks(table, processor):
        time.sleep(0.1)
        yield block


def _tell(pipe, processor: DocumentProcessor, folder: Path) -> None:
    pipe.send(_columns(cached_lengths(INDEX, processor, folder)))


def test_of_processes_that_start_at_once_one_counts(
    processor: DocumentProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COUNTED_BY", str(tmp_path / "counted_by"))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(length_cache, "length_blocks", _count_slowly)
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe(False) for _ in range(4)]
    processes = [context.Process(target=_tell, args=(send, processor, tmp_path)) for _, send in ends]
    for process in processes:
        process.start()
    found = [receive.recv() for receive, _ in ends if receive.poll(60)]
    for process in processes:
        process.join(60)
    assert found == [_columns(document_lengths(TABLE, processor))] * 4
    assert len((tmp_path / "counted_by").read_text().split()) == 1
    assert [path.name for path in (tmp_path / "lengths").glob(".*.partial")] == []


def _tell_ids(pipe, processor: DocumentProcessor) -> None:
    pipe.send(processor.template.answer_ids("Product: red bag").tolist())


def test_a_process_forked_after_counting_can_tokenize(
    processor: DocumentProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cached_lengths(INDEX, processor, tmp_path)  # with the tokenizer's threads
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # as packing/loader.py sets it before it forks
    receive, send = multiprocessing.Pipe(False)
    process = multiprocessing.get_context("fork").Process(target=_tell_ids, args=(send, processor))
    process.start()
    assert receive.poll(60) and receive.recv() == processor.template.answer_ids("Product: red bag").tolist()
    process.join(60)


def test_files_used_longest_ago_and_left_overs_go(
    processor: DocumentProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(length_cache, "_MOST_FILES", 2)
    (tmp_path / "lengths").mkdir()
    for days, name in enumerate(("a.int32", "b.int32", "c.int32", ".killed.partial", ".working.partial"), start=1):
        path = tmp_path / "lengths" / name
        path.write_bytes(b"")
        age_seconds = 60.0 if name == ".working.partial" else days * 86_400.0
        os.utime(path, (time.time() - age_seconds,) * 2)
    cached_lengths(INDEX, processor, tmp_path)
    left = {path.name for path in (tmp_path / "lengths").iterdir()}
    assert left == {lengths_file(INDEX, processor, tmp_path).name, "a.int32", "b.int32", ".working.partial", ".lock"}
