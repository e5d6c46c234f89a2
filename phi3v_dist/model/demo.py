"""A tiny Phi-3-Vision with random weights: the same classes as the real one, sizes that a CPU trains in minutes.

Enters: the size of a vocabulary and a seed. Leaves: the model and the JSON files that stand beside its weights. The
spread of the first weights matters at this size (facts: demo.md): with CLIP's own, positions drown in the patches.
"""

from typing import Any

import torch

from phi3v_dist.model.configuration import Phi3VConfig
from phi3v_dist.model.phi3v import Phi3VForCausalLM

CROP_SIZE = 56
NUM_CROPS = 4
_HEAD_DIM = 32
_DECODER_STD = 0.03
_POSITION_STD = 0.2
_PATCH_STD = 0.02


def demo_config(vocab_size: int, special_ids: dict[str, int]) -> dict[str, Any]:
    """``config.json`` of the demo model. ``special_ids``: ids of ``<s>`` and ``<|endoftext|>``."""
    pairs = _HEAD_DIM // 2
    return {
        "architectures": ["Phi3VForCausalLM"],
        "model_type": "phi3_v",
        "vocab_size": vocab_size,
        "hidden_size": 4 * _HEAD_DIM,
        "intermediate_size": 344,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "initializer_range": _DECODER_STD,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "su",
            "short_factor": [1.0] * pairs,
            "long_factor": [1.0 + i for i in range(pairs)],
        },
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": special_ids["<s>"],
        "eos_token_id": special_ids["<|endoftext|>"],
        "pad_token_id": special_ids["<|endoftext|>"],
        **_picture_parts(),
    }


def _picture_parts() -> dict[str, Any]:
    return {
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "img_processor": {
            "name": "clip_vision_model",
            "image_dim_out": 64,
            "num_img_tokens": (CROP_SIZE // 28) ** 2,
            "vision_config": {
                "hidden_size": 64,
                "intermediate_size": 256,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "image_size": CROP_SIZE,
            },
        },
    }


def demo_preprocessor_config() -> dict[str, Any]:
    """``preprocessor_config.json`` of the demo model: small crops, few of them."""
    return {
        "image_processor_type": "Phi3VImageProcessor",
        "processor_class": "Phi3VProcessor",
        "num_crops": NUM_CROPS,
        "crop_size": CROP_SIZE,
        "num_img_tokens": (CROP_SIZE // 28) ** 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def demo_model(config: dict[str, Any], seed: int) -> Phi3VForCausalLM:
    """Random float32 model; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = Phi3VForCausalLM(Phi3VConfig(**config)).float()
    embeddings = model.model.vision_embed_tokens.img_processor.vision_model.embeddings
    with torch.no_grad():
        embeddings.position_embedding.weight.normal_(0.0, _POSITION_STD)
        embeddings.patch_embedding.weight.normal_(0.0, _PATCH_STD)
    return model
