"""Shared by all tests: one thread per process, CPU, test data modules on the path, and one small demo folder."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")

# A command that a shell started in the background has SIGINT ignored, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

TESTS = Path(__file__).parent
sys.path.extend(str(folder) for folder in (TESTS, TESTS / "model", TESTS / "tracking", TESTS / "training"))


@dataclass(frozen=True)
class SmallDemo:
    """240 drawn products as shards, and a tiny model's folder, made by the tools themselves."""

    folder: Path

    def recipe(self, run_folder: Path, *options: str) -> list[str]:
        """Arguments of launch/train.py: the demo recipe on this folder, short and quick."""
        return [
            "--config",
            "launch/recipes/demo_cpu.yaml",
            f"catalog.table={self.folder}/catalog/products.csv",
            f"shards.folder={self.folder}/shards",
            f"model.folder={self.folder}/base",
            f"run_folder={run_folder}",
            "evaluation.generate_products=4",
            "evaluation.max_new_tokens=8",
            "tracking.console_every=1",
            *options,
        ]


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory) -> SmallDemo:
    """Made once for all of pytest's processes; nobody writes to it."""
    from phi3v_dist.files import locked

    own = tmp_path_factory.getbasetemp()
    demo = SmallDemo((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "demo")
    with locked(demo.folder.with_suffix(".lock")):
        if not (demo.folder / "base").exists():  # the last part
            make_demo(demo)
    return demo


def make_demo(demo: SmallDemo) -> None:
    from launching import run_tool

    recipe = demo.recipe(demo.folder / "unused")
    table = demo.folder / "catalog/products.csv"
    for words in (
        ("tools/make_demo_catalog.py", "--products", 240, demo.folder / "catalog"),
        ("tools/make_shards.py", *recipe, "shards.samples_per_shard=40", "catalog.max_reject_share=0.5"),
        ("tools/make_demo_model.py", "--catalog", table, demo.folder / "base"),
    ):
        done = run_tool(*words)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def warm(tmp_path_factory) -> Iterator[object]:
    """Starts ranks without the ten seconds of imports that each would need: a ``launching.WarmStarter``."""
    from launching import WarmStarter

    starter = WarmStarter(tmp_path_factory.mktemp("warm"))
    yield starter
    starter.close()
