"""One virtual cluster, one table of survival and one undisturbed run for all tests of Slurm."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from cases import Case, Table
from virtual_cluster import VirtualCluster, virtual_cluster, what_is_missing


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[VirtualCluster]:
    if missing := what_is_missing():
        pytest.skip(missing)
    with virtual_cluster() as started:
        yield started


@pytest.fixture
def cluster(whole_cluster) -> Iterator[VirtualCluster]:
    """The cluster with every node idle, before and after."""
    whole_cluster.bring_all_back()
    yield whole_cluster
    whole_cluster.bring_all_back()


@pytest.fixture
def new_case(cluster, small_demo, tmp_path_factory) -> Callable[[str], Case]:
    def make(name: str) -> Case:
        return Case(cluster, small_demo, tmp_path_factory.mktemp(name))

    return make


@pytest.fixture(scope="session")
def undisturbed(whole_cluster, small_demo, tmp_path_factory) -> Case:
    """A run of two nodes that nothing happens to."""
    case = Case(whole_cluster, small_demo, tmp_path_factory.mktemp("undisturbed"))
    case.submit("train_2node").end()
    case.assert_trained()
    return case


@pytest.fixture(scope="session")
def survival(tmp_path_factory) -> Iterator[Table]:
    """The table of survival; $PHI3V_SURVIVAL_TABLE names its file."""
    path = os.environ.get("PHI3V_SURVIVAL_TABLE")
    table = Table(Path(path) if path else tmp_path_factory.mktemp("survival") / "survival.md")
    yield table
    if table.rows:
        print(f"\ntable of survival: {table.path}")
