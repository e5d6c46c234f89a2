"""The layout of the official folders, spelled out from facts phi3v.md, section 7, and a folder of that size.

The folder's weight files have true headers and no content (sparse files: 8.3 GB that take no room), so that a reader
of names and shapes meets what it would meet in the official one.
"""

import json
from pathlib import Path

TOTAL_BYTES = 8_293_242_880
_ROPE = {"type": "su", "short_factor": [1.05] * 48, "long_factor": [1.03] * 48}
CONFIG = {
    "architectures": ["Phi3VForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_phi3_v.Phi3VConfig",
        "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
    },
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "img_processor": {"image_dim_out": 1024, "name": "clip_vision_model", "num_img_tokens": 144},
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "model_type": "phi3_v",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_scaling": _ROPE,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32064,
    "_attn_implementation": "flash_attention_2",
}


def official_shapes() -> dict[str, tuple[int, ...]]:
    """All 592 names and shapes."""
    vision = "model.vision_embed_tokens"
    return (
        {"lm_head.weight": (32064, 3072), "model.embed_tokens.weight": (32064, 3072), "model.norm.weight": (3072,)}
        | {f"model.layers.{i}.{name}": shape for i in range(32) for name, shape in _DECODER_LAYER.items()}
        | {f"{vision}.{name}": shape for name, shape in _PROJECTOR.items()}
        | {f"{vision}.img_processor.vision_model.{name}": shape for name, shape in _tower().items()}
    )


_DECODER_LAYER = {
    "input_layernorm.weight": (3072,),
    "self_attn.qkv_proj.weight": (9216, 3072),
    "self_attn.o_proj.weight": (3072, 3072),
    "post_attention_layernorm.weight": (3072,),
    "mlp.gate_up_proj.weight": (16384, 3072),
    "mlp.down_proj.weight": (3072, 8192),
}
_PROJECTOR = {
    "glb_GN": (1, 1, 4096),
    "sub_GN": (1, 1, 1, 4096),
    "img_projection.0.weight": (3072, 4096),
    "img_projection.0.bias": (3072,),
    "img_projection.2.weight": (3072, 3072),
    "img_projection.2.bias": (3072,),
}


def _tower() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (1024,),
        "embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        "embeddings.position_embedding.weight": (577, 1024),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):  # the first one is spelled so
        shapes |= {f"{norm}.weight": (1024,), f"{norm}.bias": (1024,)}
    for j in range(24):
        layer = f"encoder.layers.{j}"
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}.{norm}.weight": (1024,), f"{layer}.{norm}.bias": (1024,)}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{layer}.self_attn.{name}.weight": (1024, 1024), f"{layer}.self_attn.{name}.bias": (1024,)}
        shapes |= {f"{layer}.mlp.fc1.weight": (4096, 1024), f"{layer}.mlp.fc1.bias": (4096,)}
        shapes |= {f"{layer}.mlp.fc2.weight": (1024, 4096), f"{layer}.mlp.fc2.bias": (1024,)}
    return shapes


def write_official_folder(folder: Path) -> None:
    """``config.json``, index and two weight files of the official size; 507 and 85 tensors."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shapes = official_shapes()
    late = {name for name in shapes if name.startswith(("lm_head", "model.norm")) or _layer(name) > 18}
    files = {f"model-0000{n}-of-00002.safetensors": sorted(part) for n, part in ((1, shapes.keys() - late), (2, late))}
    weight_map = {name: file for file, names in files.items() for name in names}
    index = {"metadata": {"total_size": TOTAL_BYTES}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for file, names in files.items():
        _write_empty_weights(folder / file, {name: shapes[name] for name in names})


def _layer(name: str) -> int:
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else -1


def _write_empty_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * _count(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
