"""Device, process group and kernel follow from the options and from what the machine has."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from phi3v_dist.cluster.who import ALONE, ClusterInfo
from phi3v_dist.config.options import RunConfig
from phi3v_dist.errors import HardwareError
from phi3v_dist.training.backend import choose_backend

SECOND_OF_TWO = ClusterInfo(1, 2, 1, 2, "torchrun", "n1", 29500)
FOURTH_OF_FOUR = ClusterInfo(3, 4, 1, 2, "srun", "n1", 29500)  # two machines with two ranks each


def recipe(**training: object) -> RunConfig:
    return RunConfig.model_validate({"training": training})


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two GPUs that torch only believes it has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    return monkeypatch


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpus")
def test_a_cuda_recipe_on_a_cpu_machine_is_refused_in_one_line() -> None:
    with pytest.raises(HardwareError) as caught:
        choose_backend(recipe(device="cuda"), ALONE)
    told = str(caught.value)
    assert told.startswith("training.device: ") and "\n" not in told
    assert "has none" in told and "(found 'cuda')" in told and "training.device=cpu" in told


@pytest.mark.usefixtures("no_gpus")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_it_is_gloo_and_sdpa_and_deepspeed_is_told(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    backend = choose_backend(recipe(device=device), SECOND_OF_TWO)
    assert (backend.device, backend.process_group) == (torch.device("cpu"), "gloo")
    assert (backend.dtype, backend.attention_kernel) == (torch.bfloat16, "sdpa")
    assert backend.reason.startswith("cpu, gloo, bf16, attention sdpa (")
    assert os.environ["DS_ACCELERATOR"] == "cpu"


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch multiplies without MKL")
def test_on_a_cpu_mkl_runs_in_its_reproducible_mode() -> None:
    code = """
import torch
from phi3v_dist.cluster.who import ALONE
from phi3v_dist.config.options import RunConfig
from phi3v_dist.training.backend import choose_backend
choose_backend(RunConfig.model_validate({"training": {"device": "cpu"}}), ALONE)
torch.ones(64, 64) @ torch.ones(64, 64)
"""
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"} | {"MKL_VERBOSE": "1"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    products = [line for line in told.stdout.splitlines() if "SGEMM(" in line]  # MKL's own account of each call
    assert products and all("CNR:AUTO" in line for line in products)


def test_each_rank_takes_the_gpu_of_its_number_on_the_machine(gpus: pytest.MonkeyPatch) -> None:
    backend = choose_backend(recipe(device="auto"), FOURTH_OF_FOUR)
    assert (backend.device, backend.process_group) == (torch.device("cuda", 1), "nccl")
    assert choose_backend(recipe(device="cuda"), replace(FOURTH_OF_FOUR, rank=2, rank_of_node=0)).device.index == 0


def test_a_cpu_recipe_leaves_gpus_alone(gpus: pytest.MonkeyPatch) -> None:
    assert choose_backend(recipe(device="cpu"), ALONE).device.type == "cpu"


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("local", [0, 1, 2])
def test_fewer_gpus_than_ranks_is_refused_on_every_rank_of_the_machine(
    gpus: pytest.MonkeyPatch, device: str, local: int
) -> None:
    with pytest.raises(HardwareError, match="this machine has 2 for 3 ranks") as caught:
        choose_backend(recipe(device=device), ClusterInfo(3 + local, 6, local, 3, "srun", "n1", 1))
    # Rank 0 of the run speaks anyway; on another machine its first rank must, as rank 0 may have found its GPUs.
    assert caught.value.on_every_rank == (local > 0)


@pytest.mark.usefixtures("no_gpus")
@pytest.mark.parametrize("name", ["attention", "loss"])
@pytest.mark.parametrize("local", [0, 1])
def test_the_first_rank_of_each_machine_tells_which_kernel_it_lacks(name: str, local: int) -> None:
    config = RunConfig.model_validate({"model": {name: {"attention": "varlen", "loss": "liger"}[name]}})
    with pytest.raises(HardwareError, match=rf"^model\.{name}") as caught:
        choose_backend(config, replace(FOURTH_OF_FOUR, rank=2 + local, rank_of_node=local))
    assert caught.value.on_every_rank == (local > 0)


@pytest.mark.usefixtures("no_gpus")
def test_an_attention_kernel_that_needs_a_gpu_is_refused_on_a_cpu() -> None:
    config = RunConfig.model_validate({"model": {"attention": "varlen"}})
    with pytest.raises(HardwareError, match=r"^model\.attention"):
        choose_backend(config, ALONE)


@pytest.mark.usefixtures("no_gpus")
def test_optimizer_is_adamw_with_the_numbers_of_the_recipe() -> None:
    config = recipe(precision="fp32", learning_rate=3e-4, beta1=0.8, beta2=0.9, epsilon=1e-6)
    backend = choose_backend(config, ALONE)
    assert backend.dtype == torch.float32
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = backend.optimizer([{"params": [weight], "weight_decay": 0.1}], config.training)
    weight.grad = torch.tensor([0.5])
    optimizer.step()
    # AdamW's first step by hand (arXiv 1711.05101): both bias-corrected means are those of the one gradient.
    assert weight.item() == pytest.approx(2.0 * (1 - 3e-4 * 0.1) - 3e-4 * 0.5 / (0.5 + 1e-6), rel=1e-6)
