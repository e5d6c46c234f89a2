"""Real checkpoints of two ranks, made once, and a process group of one to read them in this process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from launching import run

from phi3v_dist.cluster.process_group import free_port

DISK = "60m"
IN_OWN_NAMESPACE = ["unshare", "--mount", "--map-root-user"]  # mounts nothing that others see, and leaves nothing


@pytest.fixture(scope="session")
def saved(small_demo, tmp_path_factory) -> SimpleNamespace:
    if subprocess.run([*IN_OWN_NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk (unshare --mount --map-root-user)")
    folder = tmp_path_factory.mktemp("saved")
    (folder / "disk").mkdir()
    worker = [str(Path(__file__).with_name("saving_worker.py")), str(small_demo.folder / "base")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command = [*torchrun, *worker, str(folder / "disk"), str(folder / "told.json")]
    mount = f"mount -t tmpfs -o size={DISK} none {folder}/disk"
    done = run([*IN_OWN_NAMESPACE, "sh", "-c", f'{mount} && exec "$@"', "sh", *command])
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = json.loads((folder / "told.json").read_text())
    return SimpleNamespace(run=folder / "told.run", ranks=ranks, told=ranks[0])


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """Without environment variables, which processes that other tests start would take for theirs."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
