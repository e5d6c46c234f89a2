"""The golden model: weights, pixels and packs from the formula of tests/golden/README.md."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from phi3v_dist.model import Phi3VConfig, Phi3VForCausalLM

FOLDER = Path(__file__).parents[1] / "golden"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())


def _mix(x: np.ndarray) -> np.ndarray:
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def bytes_of(name: str, count: int) -> np.ndarray:
    """The integers 0…255 of the formula, (count,) float64."""
    index = np.arange(count, dtype=np.uint32)
    return (_mix(_mix(index) + np.uint32((zlib.crc32(name.encode()) + 1) & 0xFFFFFFFF)) >> np.uint32(24)).astype(float)


def _scale(key: str) -> float:
    if key.endswith("bias"):
        return 2.0**-4
    if key.endswith(("glb_GN", "sub_GN")):
        return 1.0
    if key.endswith("patch_embedding.weight"):
        return 2.0**-7
    if key.endswith("img_projection.0.weight"):
        return 2.0**-5
    tower = "vision_model" in key
    if tower and key.endswith(tuple(f"{n}.weight" for n in ("q_proj", "k_proj", "v_proj", "out_proj", "fc1"))):
        return 2.0**-4
    return 2.0**-3


def weight_of(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    b = bytes_of(key, int(np.prod(shape)))
    if key.endswith("weight") and ("norm" in key or "layrnorm" in key):
        values = 1 + (np.floor(b / 8) - 16) / 128
    else:
        values = _scale(key) * (2 * b - 255) / 256
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def golden_config(version: str) -> Phi3VConfig:
    raw = json.loads((FOLDER / f"config_{version}.json").read_text())
    raw["img_processor"]["vision_config"] = MANIFEST["clip"]
    raw["pad_token_id"] = MANIFEST["padding_token"]
    return Phi3VConfig(**raw)


def golden_model(version: str = "phi3v") -> Phi3VForCausalLM:
    model = Phi3VForCausalLM(golden_config(version)).float()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(weight_of(key, tuple(parameter.shape)))
    return model.eval()


def parameters_by_row(model: Phi3VForCausalLM) -> dict[str, torch.nn.Parameter]:
    """Parameters by name, in the manifest's order."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name, _ in MANIFEST["parameters"]}


def golden_values(version: str = "phi3v") -> dict[str, torch.Tensor]:
    return load_file(FOLDER / f"golden_{version}.safetensors")


def pixels_of(case: str, grids: list[list[int]]) -> torch.Tensor:
    """(crops of all pictures, 3, 336, 336) float32."""
    pictures = []
    for k, (rows, columns) in enumerate(grids, start=1):
        shape = (1 + rows * columns, 3, 336, 336)
        b = bytes_of(f"pixels:{case}:{k}", int(np.prod(shape)))
        pictures.append(((2 * b - 255) / 128).astype(np.float32).reshape(shape))
    return torch.from_numpy(np.concatenate(pictures))


def pack_of(case: str, values: dict[str, torch.Tensor]) -> dict:
    """Keyword arguments of ``Phi3VForCausalLM.forward`` for a golden case."""
    ids = values[f"{case}.input_ids"].long()
    labels = values[f"{case}.labels"].long()
    grids = [tuple(g) for g in MANIFEST["phi3v"]["cases"][case].get("grids", [])]
    supervised = (labels[1:] != -100).nonzero()[:, 0]
    return {
        "input_ids": ids,
        "positions": torch.arange(len(ids)),
        "cu_seqlens": torch.tensor([0, len(ids)], dtype=torch.int32),
        "pixels": pixels_of(case, grids) if grids else None,
        "grids": grids,
        "supervised": supervised,
        "targets": labels[1:][supervised],
    }
