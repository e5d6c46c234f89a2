"""A dead worker ends in one line."""

import os

import pytest

from phi3v_dist.errors import ShardError
from phi3v_dist.shards.workers import worker_pool


def test_a_worker_that_dies_is_an_error_not_a_hang():
    with pytest.raises(ShardError, match=r"killed.*fewer shards\.workers"), worker_pool(1) as workers:
        workers._pool.submit(os._exit, 1).result()
