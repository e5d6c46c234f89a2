"""Configuration of Phi-3-Vision, as the official ``config.json`` has it.

Enters: the raw JSON. Leaves: the same JSON when saved, and from it the two configurations of transformers' own modules
(Phi3, CLIP). The raw JSON is kept because transformers 5 would write ``rope_parameters`` in place of ``rope_scaling``,
which older software then silently ignores (facts: phi3v.md, section 8). One thing is changed in it: ``auto_map`` of a
configuration that came from the hub names ``repo--file.Class``, which a folder without network can't follow; it becomes
``file.Class``, as in the official file.

The official file says nothing about the size of the vision tower: it is CLIP ViT-L/14 at 336 px. A folder may hold
``img_processor.vision_config`` with other sizes (the demo model does).
"""

import copy
from typing import Any

from transformers import CLIPVisionConfig, Phi3Config, PreTrainedConfig

# The name under which attention.py registers the function that is handed in with each call.
HANDED_IN_ATTENTION = "phi3v_handed_in"

_CLIP_VIT_L_336 = {  # constants of the official code (image_embedding_phi3_v.py), not in its config.json
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rms_norm_eps",
    "initializer_range",
    "max_position_embeddings",
)
# What transformers adds when it loads. Not _attn_implementation, which the official file holds (and we never follow).
_NOT_OF_THE_FILE = ("attn_implementation", "dtype", "name_or_path", "experts_implementation")
_END_OF_TEXT = 32000  # default of the official class when config.json names no pad_token_id


def local_auto_map(auto_map: dict[str, Any]) -> dict[str, Any]:
    """``repo--file.Class`` → ``file.Class``, in plain names and in lists of them."""

    def local(name: Any) -> Any:
        if isinstance(name, list):
            return [local(part) for part in name]
        return name.rpartition("--")[2] if isinstance(name, str) else name

    return {auto_class: local(name) for auto_class, name in auto_map.items()}


class Phi3VConfig(PreTrainedConfig):
    """Holds ``raw`` (the JSON as it came) and what is derived from it."""

    model_type = "phi3_v"

    def __init__(self, **raw: Any) -> None:
        runtime = {key: raw.pop(key) for key in ("dtype", "name_or_path", "attn_implementation") if key in raw}
        self.raw: dict[str, Any] = {
            key: copy.deepcopy(value) for key, value in raw.items() if key not in _NOT_OF_THE_FILE
        }
        self.raw.setdefault("model_type", self.model_type)
        if isinstance(self.raw.get("auto_map"), dict):
            self.raw["auto_map"] = local_auto_map(self.raw["auto_map"])
        dtype = runtime.pop("dtype", None) or raw.get("torch_dtype")
        super().__init__(dtype=dtype, architectures=raw.get("architectures"), **runtime)
        self.hidden_size: int = raw.get("hidden_size", 3072)
        self.num_attention_heads: int = raw.get("num_attention_heads", 32)
        self.num_hidden_layers: int = raw.get("num_hidden_layers", 32)
        self.vocab_size: int = raw.get("vocab_size", 32064)
        self.rope_theta: float = raw.get("rope_theta", 10000.0)
        # Not called rope_scaling: under that name transformers 5 would convert it.
        self.long_rope: dict[str, Any] | None = copy.deepcopy(raw.get("rope_scaling"))
        self.max_position_embeddings: int = raw.get("max_position_embeddings", 131072)
        self.original_max_position_embeddings: int = raw.get("original_max_position_embeddings", 4096)
        self.initializer_range: float = raw.get("initializer_range", 0.02)
        padding = raw.get("pad_token_id")
        self.padding_token_id: int = _END_OF_TEXT if padding is None else padding

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **asked: Any) -> Any:
        """Read the JSON. The old word ``torch_dtype`` for a type that is asked for must not overwrite the file's."""
        if "torch_dtype" in asked:
            asked["dtype"] = asked.pop("torch_dtype")
        return super().from_dict(config_dict, **asked)

    @property
    def head_dim(self) -> int:
        """Width of one attention head of the language model."""
        return self.hidden_size // self.num_attention_heads

    def text(self) -> Phi3Config:
        """Configuration for transformers' Phi3 decoder layers (rotary positions are ours, see rope.py)."""
        chosen = {key: self.raw[key] for key in _TEXT_KEYS if key in self.raw}
        config = Phi3Config(**chosen, pad_token_id=None, bos_token_id=None, eos_token_id=None)
        config._attn_implementation = HANDED_IN_ATTENTION
        return config

    def vision(self) -> CLIPVisionConfig:
        """Configuration for transformers' CLIP vision tower."""
        sizes = _CLIP_VIT_L_336 | self.raw.get("img_processor", {}).get("vision_config", {})
        config = CLIPVisionConfig(**sizes)
        config._attn_implementation = "sdpa"
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON as it came."""
        return copy.deepcopy(self.raw)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the JSON as it came: what transformers writes with ``save_pretrained``."""
        return self.to_dict()
