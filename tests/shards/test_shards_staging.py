"""Commands that share one shard folder, as real processes: whoever ends last, is killed or is started twice, the
bytes are one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from phi3v_dist.config.options import CatalogOptions, ShardOptions
from phi3v_dist.errors import ShardError
from phi3v_dist.shards import delivery
from phi3v_dist.shards.staging import Staging
from phi3v_dist.shards.write import make_shards

CHECKOUT = Path(__file__).parents[2]
AWAITED = 10  # a product whose picture is awaited, while all others are checked


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def options(folder: Path, workers: int = 1) -> ShardOptions:
    return ShardOptions(folder=str(folder), samples_per_shard=5, workers=workers)


@contextmanager
def started(catalog: CatalogOptions, folder: Path, part: str):
    """The command in a process group of its own, so that killing it takes its workers along, as a lost node does."""
    recipe = folder.parent / "recipe.yaml"
    told = {"catalog": catalog.model_dump(mode="json"), "shards": options(folder, 2).model_dump(mode="json")}
    recipe.write_text(yaml.safe_dump(told))
    words = [sys.executable, "tools/make_shards.py", "--config", str(recipe), "--part", part]
    command = subprocess.Popen(words, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True)  # fmt: skip
    try:
        yield command
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
        command.communicate()


def wait_until(fact, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def own_catalog(catalog, tmp_path) -> CatalogOptions:
    """A copy of the catalogue whose pictures a test may replace."""
    folder = shutil.copytree(Path(catalog.table).parent, tmp_path / "catalog")
    return catalog.model_copy(update={"table": str(folder / "products.csv")})


class Awaited:
    """A picture that keeps its reader waiting until it is sent: a named pipe in the picture's place."""

    def __init__(self, path: Path) -> None:
        self.content, self._path, self._pipe = path.read_bytes(), path, path.with_suffix(".pipe")
        os.mkfifo(self._pipe)
        os.replace(self._pipe, path)

    def put_back(self) -> None:
        """The picture stands under its name again; who reads already still waits."""
        os.link(self._path, self._pipe)
        ordinary = self._path.with_suffix(".new")
        ordinary.write_bytes(self.content)
        os.replace(ordinary, self._path)

    def send(self) -> None:
        self._pipe.write_bytes(self.content)


@pytest.fixture
def awaited(own_catalog) -> Awaited:
    return Awaited(Path(own_catalog.table).parent / f"pictures/{AWAITED}.jpg")


def checked(tmp_path: Path) -> dict[Path, int]:
    """Finished chunks of pictures, with the time of their last change."""
    return {path: path.stat().st_mtime_ns for path in tmp_path.glob(".shards.partial-*/checked/??????.arrow")}


def test_commands_at_once_and_one_of_them_twice_give_the_bytes_of_one(catalog, made, tmp_path):
    folder = tmp_path / "shards"
    with (
        started(catalog, folder, "1/3") as one,
        started(catalog, folder, "2/3") as two,
        started(catalog, folder, "3/3") as three,
        started(catalog, folder, "2/3") as twin,
    ):
        said = [command.communicate(timeout=200)[0] for command in (one, two, three, twin)]
        assert [command.returncode for command in (one, two, three, twin)] == [0, 0, 0, 0], said
    assert files_of(folder) == files_of(made.folder)
    assert {path.name for path in tmp_path.iterdir()} == {"shards", "recipe.yaml"}
    assert all("products of the table" in text for text in said)


def test_one_part_alone_makes_the_whole_folder(catalog, made, tmp_path):
    with started(catalog, tmp_path / "shards", "3/9") as command:
        assert command.wait(timeout=200) == 0
    assert files_of(tmp_path / "shards") == files_of(made.folder)


def test_a_killed_command_goes_on_behind_what_it_had_checked(own_catalog, awaited, tmp_path):
    folder = tmp_path / "shards"
    with started(own_catalog, folder, "1/1") as command:
        wait_until(lambda: len(checked(tmp_path)) == 5)  # of 6; the last awaits its picture
        os.killpg(command.pid, signal.SIGKILL)
    finished = checked(tmp_path)
    assert not folder.exists()
    awaited.put_back()
    seen = []
    rename = os.replace

    def watched(source, target):
        if Path(target) == folder:
            seen.append(checked(tmp_path))  # all that stood at the moment of the last rename
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", watched)
        make_shards(own_catalog, options(folder))
    assert {path: seen[0][path] for path in finished} == finished
    make_shards(own_catalog, options(tmp_path / "whole"))
    assert files_of(folder) == files_of(tmp_path / "whole")


def test_a_twin_that_wakes_up_after_the_folder_has_its_name_changes_nothing(own_catalog, awaited, tmp_path):
    folder = tmp_path / "shards"
    with started(own_catalog, folder, "1/1") as late:
        wait_until(lambda: len(checked(tmp_path)) == 5)
        awaited.put_back()
        made = make_shards(own_catalog, options(folder))
        before = files_of(folder)
        awaited.send()
        text = late.communicate(timeout=90)[0]
        assert late.returncode == 0 and "nothing to do" in text, text
    assert made.made_now and files_of(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"shards", "recipe.yaml", "catalog"}


@pytest.mark.parametrize("moment", ["check_file", "write_index", "write_json"])
def test_a_twin_that_is_overtaken_while_it_joins_changes_nothing(catalog, made, tmp_path, monkeypatch, moment):
    folder, calls = tmp_path / "shards", []
    function = getattr(delivery, moment)

    def overtaken(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            assert make_shards(catalog, options(folder)).made_now
        return function(*arguments)

    monkeypatch.setattr(delivery, moment, overtaken)
    assert not make_shards(catalog, options(folder)).made_now
    assert files_of(folder) == files_of(made.folder) and [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_of_two_that_find_themselves_the_last_one_gives_the_name_and_half_files_are_swept(tmp_path):
    first, second = Staging(tmp_path / "shards", "f" * 64), Staging(tmp_path / "shards", "f" * 64)
    for staging in (first, second):
        staging.open()
    (first.shards / "index.parquet").write_bytes(b"whole")
    (second.shards / ".index.parquet.1.partial").write_bytes(b"who")
    (first.shards / "manifest.json").write_bytes(b"{}")
    assert [first.give_name(), second.give_name()] == [True, False]
    assert files_of(tmp_path) == {"shards/index.parquet": b"whole", "shards/manifest.json": b"{}"}
    second.refuse_files()


def test_another_input_never_joins_what_a_killed_command_left(catalog, made, own_catalog, tmp_path):
    other = Staging(tmp_path / "shards", "0" * 64)
    other.open()
    (other.shards / "train").mkdir()
    (other.shards / "train/train-000000.tar").write_bytes(b"of another input")
    make_shards(catalog, options(tmp_path / "shards"))
    assert files_of(tmp_path / "shards") == files_of(made.folder)


def test_a_finished_tar_file_that_vanished_is_an_error_of_one_line(catalog, tmp_path, monkeypatch):
    real = delivery.check_file

    def vanished(folder, told):
        (folder / told["path"]).unlink(missing_ok=True)
        real(folder, told)

    monkeypatch.setattr(delivery, "check_file", vanished)
    with pytest.raises(ShardError, match=r"train-000000\.tar.*missing"):
        make_shards(catalog, options(tmp_path / "shards"))
