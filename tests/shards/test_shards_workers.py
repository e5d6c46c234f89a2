"""A dead worker and a second writer each end in one line."""

import os

import pytest

from phi3v_dist.errors import ShardError
from phi3v_dist.shards.staging import staging_folder
from phi3v_dist.shards.workers import worker_pool


def test_a_worker_that_dies_is_an_error_not_a_hang():
    with pytest.raises(ShardError, match=r"killed.*fewer shards\.workers"), worker_pool(1) as workers:
        workers._pool.submit(os._exit, 1).result()


def test_a_second_writer_is_kept_out_and_the_first_goes_on(tmp_path):
    with staging_folder(tmp_path / "shards") as staging:
        (staging / "part").write_text("of the first")
        child = os.fork()
        if child == 0:
            try:
                with staging_folder(tmp_path / "shards"):
                    os._exit(1)
            except ShardError as error:
                os._exit(0 if "another process" in str(error) else 2)
        assert os.waitpid(child, 0)[1] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    assert (tmp_path / "shards/part").read_text() == "of the first"
