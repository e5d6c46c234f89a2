"""Rings of pairs and who is slow in them; and four real gloo ranks on two nodes."""

import json
import subprocess
import sys

import pytest

from phi3v_dist.cluster.hardware_bandwidth import bus_bandwidth, ring_of_pairs, slow_nodes
from phi3v_dist.cluster.process_group import free_port

RANKS = """
import json, os, sys
import torch
from phi3v_dist.cluster.hardware_bandwidth import bandwidth_between_nodes, bandwidth_in_node
from phi3v_dist.cluster.process_group import process_group
from phi3v_dist.cluster.who import ClusterInfo

def run(rank):
    who = ClusterInfo(rank, 5, rank % 2, 2, "srun", "127.0.0.1", int(sys.argv[1]), node_name=f"n{rank // 2}")
    with process_group(who, "gloo", 1.0):
        inside = bandwidth_in_node(who, torch.device("cpu"))
        between = bandwidth_between_nodes(who, torch.device("cpu"))
        os.write(1, (json.dumps([rank, inside, sorted(between.items())]) + "\\n").encode())

children = []
for rank in range(5):
    if (child := os.fork()) == 0:
        run(rank)
        os._exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(max(map(abs, codes)))
"""


def test_bus_bandwidth_is_that_of_nccl_tests() -> None:
    # PERFORMANCE.md: algorithm bandwidth S/t times 2(n - 1)/n
    assert bus_bandwidth(8_000_000_000, 0.1, 8) == pytest.approx(80 * 2 * 7 / 8)
    assert bus_bandwidth(1_000_000_000, 1.0, 2) == pytest.approx(1.0)


@pytest.mark.parametrize("nodes", range(2, 12))
def test_the_ring_has_every_neighbour_once_and_no_node_twice_in_a_round(nodes: int) -> None:
    rounds = ring_of_pairs(nodes)
    pairs = [pair for some in rounds for pair in some]
    assert {frozenset(pair) for pair in pairs} == {frozenset((n, (n + 1) % nodes)) for n in range(nodes)}
    assert len(pairs) == (nodes if nodes > 2 else 1)
    for some in rounds:
        members = [node for pair in some for node in pair]
        assert len(members) == len(set(members))
    assert len(rounds) == {0: 2, 1: 3}[nodes % 2] if nodes > 2 else len(rounds) == 1


def test_one_node_has_no_pair() -> None:
    assert ring_of_pairs(1) == []


def ring(speeds: dict[tuple[int, int], float], nodes: int) -> dict[tuple[int, int], float]:
    pairs = [pair for some in ring_of_pairs(nodes) for pair in some]
    return {pair: speeds.get(pair, 100.0) for pair in pairs}


def test_a_node_slow_to_both_neighbours_is_named_alone() -> None:
    assert slow_nodes(ring({(1, 2): 5.0, (2, 3): 6.0}, 5), 50.0) == ([2], [])


def test_a_slow_pair_whose_nodes_are_fast_elsewhere_is_a_pair() -> None:
    assert slow_nodes(ring({(1, 2): 5.0}, 5), 50.0) == ([], [(1, 2)])


def test_where_all_pairs_are_slow_no_node_is_named() -> None:
    pairs = ring({}, 4)
    assert slow_nodes(pairs, 1000.0) == ([], list(pairs))
    assert slow_nodes({(0, 1): 5.0}, 50.0) == ([], [(0, 1)])


def test_without_a_floor_nothing_is_slow() -> None:
    assert slow_nodes(ring({(1, 2): 0.001}, 4), 0.0) == ([], [])


def test_real_ranks_measure_their_node_and_every_pair_also_with_a_smaller_last_node() -> None:
    command = [sys.executable, "-c", RANKS, str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    told = {}
    for rank, inside, between in map(json.loads, done.stdout.splitlines()):
        told[rank] = inside, {tuple(pair): speed for pair, speed in between}
    assert sorted(told) == [0, 1, 2, 3, 4]
    assert told[4][0] is None and all(told[rank][0] > 0 for rank in range(4))
    assert [sorted(told[rank][1]) for rank in range(5)] == [[(0, 1), (2, 0)]] * 2 + [[(0, 1), (1, 2)]] * 2 + [
        [(1, 2), (2, 0)]
    ]
    # the slowest member counts, so all members of a node or of a pair have the same figure
    assert told[0][0] == told[1][0] and told[2][0] == told[3][0]
    assert len({told[rank][1][0, 1] for rank in range(4)}) == 1
    assert min(speed for _, pairs in told.values() for speed in pairs.values()) > 0
