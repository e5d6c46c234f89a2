"""Tar files on the node's disk: copied once by whoever comes first, within a limit, not trusted when they are gone."""

import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from phi3v_dist.config.options import ShardOptions
from phi3v_dist.shards import local_copies
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader


def _options(folder: Path, limit_bytes: float = 1e9) -> ShardOptions:
    return ShardOptions(local_copy=str(folder), local_copy_gb=limit_bytes / 1e9)


def _copies(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix().partition("/")[2] for path in folder.rglob("*.tar"))


def _everything(reader: ShardReader) -> list:
    return list(reader.samples(range(19)))


def _tars(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tar"))


def test_a_tar_file_is_copied_when_first_read_and_read_from_there(damaged_copy, tmp_path):
    index = load_index(damaged_copy)
    truth = _everything(ShardReader(index))
    reader = ShardReader(index, _options(tmp_path / "near"))
    assert _copies(tmp_path / "near") == []
    assert reader.sample(0) == truth[0]
    assert _copies(tmp_path / "near") == [index.row(0)["shard"]]
    assert _everything(reader) == truth
    assert _copies(tmp_path / "near") == _tars(damaged_copy)
    for tar in damaged_copy.rglob("*.tar"):
        tar.unlink()
    assert _everything(ShardReader(index, _options(tmp_path / "near"))) == truth


def _read(folder: Path, near: Path, pipe) -> None:
    made = []
    copyfile = shutil.copyfile
    shutil.copyfile = lambda source, to: (made.append(Path(source).name), time.sleep(0.05), copyfile(source, to))
    samples = _everything(ShardReader(load_index(folder), _options(near)))
    pipe.send((made, samples))


def test_processes_of_a_node_copy_each_tar_file_once(made, tmp_path):
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe(False) for _ in range(4)]
    processes = [context.Process(target=_read, args=(made.folder, tmp_path, send)) for _, send in ends]
    for process in processes:
        process.start()
    found = [receive.recv() for receive, _ in ends if receive.poll(60)]
    for process in processes:
        process.join(60)
    copied = sorted(name for names, _ in found for name in names)
    assert copied == sorted(Path(shard).name for shard in _tars(made.folder))
    assert all(samples == _everything(ShardReader(load_index(made.folder))) for _, samples in found)


def test_without_room_samples_come_from_afar(made, tmp_path):
    truth = _everything(ShardReader(load_index(made.folder)))
    assert _everything(ShardReader(load_index(made.folder), _options(tmp_path, 100))) == truth
    assert _copies(tmp_path) == []


def test_free_space_of_the_disk_is_left_to_others(made, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=usage.total // 25))
    _everything(ShardReader(load_index(made.folder), _options(tmp_path)))
    assert _copies(tmp_path) == []


def test_a_folder_that_can_not_be_written_only_costs_speed(made, tmp_path):
    (tmp_path / "file").write_text("no folder")
    truth = _everything(ShardReader(load_index(made.folder)))
    assert _everything(ShardReader(load_index(made.folder), _options(tmp_path / "file"))) == truth


def test_copies_used_longest_ago_make_room_and_those_in_use_stay(made, tmp_path):
    index = load_index(made.folder)
    names = list(dict.fromkeys(index.column("shard")))
    sizes = {name: (made.folder / name).stat().st_size for name in names}
    first = {name: int((index.column("shard") == name).argmax()) for name in names}
    reader = ShardReader(index, _options(tmp_path, sizes[names[0]] + sizes[names[1]] + sizes[names[2]]))
    for name in names[:3]:
        reader.sample(first[name])
    assert _copies(tmp_path) == sorted(names[:3])
    reader.sample(first[names[3]])  # all three were used a moment ago
    assert _copies(tmp_path) == sorted(names[:3])
    copies = {path.relative_to(tmp_path).as_posix().partition("/")[2]: path for path in tmp_path.rglob("*.tar")}
    now = time.time()
    os.utime(copies[names[0]], (now - 3000,) * 2)
    os.utime(copies[names[1]], (now - 4000,) * 2)
    small = min(names[3:], key=sizes.get)
    assert sizes[small] <= sizes[names[1]]
    fresh = ShardReader(index, _options(tmp_path, sizes[names[0]] + sizes[names[1]] + sizes[names[2]]))
    assert fresh.sample(first[small]).number == first[small]
    assert _copies(tmp_path) == sorted([names[0], names[2], small])


def test_a_copy_that_is_deleted_under_a_reader_is_no_damage(made, tmp_path):
    index = load_index(made.folder)
    reader = ShardReader(index, _options(tmp_path))
    truth = _everything(reader)
    shutil.rmtree(tmp_path)
    assert _everything(reader) == truth  # the files are open still
    reader.close()
    assert _everything(reader) == truth


def test_a_copy_that_was_cut_off_is_made_again_and_left_overs_go(made, tmp_path, monkeypatch):
    index = load_index(made.folder)
    left_over = tmp_path / index.index_hash[:16] / "train" / ".train-000000.tar.dead.partial"
    left_over.parent.mkdir(parents=True)
    left_over.write_bytes(b"half")
    os.utime(left_over, (time.time() - 7200,) * 2)
    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda source, to: to.write_bytes(b"torn"))
    truth = _everything(ShardReader(index))
    assert _everything(ShardReader(index, _options(tmp_path))) == truth
    assert _copies(tmp_path) == [] and not left_over.exists()
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    assert _everything(ShardReader(index, _options(tmp_path))) == truth
    assert _copies(tmp_path) == _tars(made.folder)


def test_a_reader_says_now_and_then_that_it_uses_a_copy(made, tmp_path, monkeypatch):
    monkeypatch.setattr(local_copies, "_MARK_SECONDS", 0.0)
    index = load_index(made.folder)
    reader = ShardReader(index, _options(tmp_path))
    reader.sample(0)
    (copy,) = tmp_path.rglob("*.tar")
    os.utime(copy, (0, 0))
    reader.sample(0)
    assert time.time() - copy.stat().st_mtime < 60


@pytest.mark.parametrize("name", ["pickle", "fork"])
def test_readers_of_other_processes_find_the_copies(made, tmp_path, name):
    import pickle

    reader = ShardReader(load_index(made.folder), _options(tmp_path))
    truth = _everything(reader)
    if name == "pickle":
        assert _everything(pickle.loads(pickle.dumps(reader))) == truth
        return
    child = os.fork()
    if child == 0:
        os._exit(0 if _everything(reader) == truth else 1)
    assert os.waitpid(child, 0)[1] == 0
