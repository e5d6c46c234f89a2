"""What ends a rank becomes one line, a verdict, and silence where another rank has spoken."""

import errno
import logging
from dataclasses import replace

import pytest
from torch.distributed import DistNetworkError

from phi3v_dist.cluster.who import ALONE, ClusterInfo
from phi3v_dist.errors import ConfigError, LostRankError, UserError
from phi3v_dist.training.attempts import decide_end, read_events, tell_verdict
from phi3v_dist.training.farewell import farewell

# as gloo of torch 2.13 says it when a peer was killed
GLOO = (
    "[/build/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [10.0.0.3]:4997: Connection reset by peer. "
    "This is typically caused by a remote worker hanging."
)


def rank(number: int) -> ClusterInfo:
    return replace(ALONE, rank=number, num_ranks=4, ranks_per_node=4, node_name="n1", attempt="7.0")


@pytest.fixture(autouse=True)
def open_log(tmp_path, monkeypatch):
    """As in a run, where the log of the rank is open."""
    monkeypatch.setattr(logging.getLogger("phi3v_dist"), "handlers", [logging.FileHandler(tmp_path / "rank.log")])
    monkeypatch.setattr(logging.getLogger("phi3v_dist"), "level", logging.INFO)


def ended_by(error: Exception, run_folder, number: int = 0) -> UserError:
    with pytest.raises(UserError) as told, farewell(run_folder, rank(number)):
        raise error
    return told.value


@pytest.mark.parametrize("error", [RuntimeError(GLOO), DistNetworkError("no route to host")])
def test_a_lost_peer_is_told_as_one_and_may_be_mended_by_another_start(tmp_path, error):
    told = ended_by(error, tmp_path)
    assert isinstance(told, LostRankError) and told.exit_code == 70
    assert str(told).startswith("rank 0 on n1: another rank is gone (")
    assert "gloo/gloo" not in str(told) and "typically" not in str(told)


def test_who_lost_a_peer_is_silent_where_another_rank_has_told_the_reason(tmp_path):
    tell_verdict(tmp_path, rank(3), 2, "the disk is full")
    assert ended_by(RuntimeError(GLOO), tmp_path).said_elsewhere
    assert [event["reason"] for event in read_events(tmp_path)] == ["the disk is full"]


def test_a_verdict_of_an_earlier_attempt_silences_nobody(tmp_path):
    tell_verdict(tmp_path, replace(rank(3), attempt="6.0"), 70, "the node was lost")
    assert not ended_by(RuntimeError(GLOO), tmp_path).said_elsewhere
    assert len(read_events(tmp_path)) == 2


def test_a_bug_is_one_line_with_code_1_and_its_traceback_is_in_the_log(tmp_path):
    told = ended_by(ZeroDivisionError("division by zero"), tmp_path, 2)
    assert told.exit_code == 1
    assert str(told).startswith("rank 2 on n1: ZeroDivisionError: division by zero. ")
    assert "Traceback" in (tmp_path / "rank.log").read_text()
    assert [(event["rank"], event["code"]) for event in read_events(tmp_path)] == [(2, 1)]


def test_of_an_error_that_every_rank_meets_rank_0_alone_tells_the_verdict(tmp_path):
    for number in range(3):
        ended_by(ConfigError("is wrong", where="key", mend="Mend it."), tmp_path, number)
    assert [(event["rank"], event["code"]) for event in read_events(tmp_path)] == [(0, 2)]


def test_a_disk_that_one_rank_cannot_use_is_told_by_that_rank(tmp_path):
    told = ended_by(OSError(28, "No space left on device", "/scratch/x"), tmp_path, 1)
    assert (told.exit_code, told.on_every_rank) == (2, False)
    assert "rank 1 on n1: /scratch/x: No space left on device" in str(told)


def test_a_disk_that_was_away_asks_for_another_attempt(tmp_path):
    told = ended_by(OSError(errno.ESTALE, "Stale file handle", "/scratch/x"), tmp_path, 1)
    assert (told.exit_code, told.on_every_rank) == (70, False)
    assert "rank 1 on n1: /scratch/x: Stale file handle" in str(told)
    (verdict,) = read_events(tmp_path)
    decision = decide_end([verdict], verdict["attempt"], finished=False, ending="running")
    assert (decision.action, decision.reason) == ("requeue", str(told))
