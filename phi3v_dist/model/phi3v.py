"""Phi-3-Vision on packs: transformers' Phi3 decoder layers and CLIP tower, with what they lack.

Enters: one pack as plain tensors (documents end to end). Leaves: hidden states, logits, or the summed loss of the
supervised positions. Parameter names are exactly the official ones.

Every forward runs the same modules in the same order whatever the pack holds (DESIGN, decision 5): without a picture
a blank one goes through the vision tower with weight zero, without a supervised position the first one goes through
the head with weight zero. So ranks never wait for each other's modules, and every trained parameter has a gradient.

Shapes: T tokens of the pack, M supervised positions, D hidden size.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer, Phi3RMSNorm

from phi3v_dist.costs import ModelSizes, pack_flops
from phi3v_dist.model.attention import Attend, Borders, attend_in_pack
from phi3v_dist.model.batches import forward_batch, generate_batch
from phi3v_dist.model.configuration import Phi3VConfig
from phi3v_dist.model.folder import SHARD_BYTES, save_beside_weights
from phi3v_dist.model.loss import LanguageModelHead
from phi3v_dist.model.rope import RopeMode, long_tokens, rope_cos_sin
from phi3v_dist.model.vision import FEATURE_LAYER, ImageEmbedding

Grids = Sequence[tuple[int, int]]


class Phi3VModel(torch.nn.Module):
    """``model``: embeddings, decoder layers, final norm."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        text = config.text()
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, config.hidden_size, config.padding_token_id)
        self.vision_embed_tokens = ImageEmbedding(config)
        self.layers = torch.nn.ModuleList([Phi3DecoderLayer(text, i) for i in range(text.num_hidden_layers)])
        self.norm = Phi3RMSNorm(config.hidden_size, eps=text.rms_norm_eps)
        self.recompute_layers = False
        self.trains_vision = True

    def embed(self, input_ids_T: torch.Tensor, pixels_C3HW: torch.Tensor | None, grids: Grids) -> torch.Tensor:
        """(T, D): token embeddings, image tokens (negative ids) replaced by the pictures' vectors in their order."""
        hidden = self.embed_tokens(input_ids_T.clamp(min=0))
        if pixels_C3HW is None or len(grids) == 0:
            return hidden + self._blank_picture(hidden).sum() * 0
        pictures = self.vision_embed_tokens(pixels_C3HW, grids)
        places = (input_ids_T < 0).nonzero()[:, 0]
        assert len(places) == len(pictures), f"{len(places)} image tokens, {len(pictures)} image vectors"
        return hidden.index_put((places,), pictures.to(hidden.dtype))

    def _blank_picture(self, like: torch.Tensor) -> torch.Tensor:
        # Type and device come from a tensor: under ZeRO-3 a mere look at another module's weight gathers it, and the
        # ranks with pictures, which don't look, would not take part.
        side = self.vision_embed_tokens.img_processor.vision_model.config.image_size
        # As pixels of pictures do: see training/step.py.
        asks = self.trains_vision
        pixels = torch.zeros(2, 3, side, side, dtype=like.dtype, device=like.device, requires_grad=asks)
        return self.vision_embed_tokens(pixels, [(1, 1)])

    def run_layers(
        self,
        hidden: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        attend: Attend,
        cache: object | None = None,
    ) -> torch.Tensor:
        """(B, T, D) → (B, T, D): all decoder layers and the final norm."""
        for layer in self.layers:
            if self.recompute_layers and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, position_embeddings=cos_sin, attend=attend, use_reentrant=False)
            else:
                hidden = layer(hidden, position_embeddings=cos_sin, cache=cache, attend=attend)
        return self.norm(hidden)


class Phi3VForCausalLM(PreTrainedModel):
    """The whole model; ``attention_kernel`` and ``rope_mode`` may be set after construction."""

    config_class = Phi3VConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules: ClassVar = ["Phi3DecoderLayer"]
    # An alias of embed_tokens that some third-party files hold.
    _keys_to_ignore_on_load_unexpected: ClassVar = [r"vision_embed_tokens\.wte\.weight"]

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.sizes = model_sizes(config)
        self.attention_kernel = "sdpa"
        self.rope_mode: RopeMode = "per_document"
        self.model = Phi3VModel(config)
        self.lm_head = LanguageModelHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            module.weight.normal_(0.0, std)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
        elif isinstance(module, Phi3RMSNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, ImageEmbedding):
            module.glb_GN.zero_()
            module.sub_GN.zero_()

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        cu_seqlens: torch.Tensor,
        pixels: torch.Tensor | None = None,
        grids: Grids = (),
        cache: object | None = None,
    ) -> torch.Tensor:
        """(T, D) after the final norm, for a pack (see ``forward``)."""
        hidden = self.model.embed(input_ids, pixels, grids)
        borders = Borders.of(cu_seqlens)
        lengths = cu_seqlens.diff()
        long = long_tokens(lengths, self.config, self.rope_mode).repeat_interleave(lengths)
        cos, sin = rope_cos_sin(positions, long, self.config, hidden.dtype)
        attend = attend_in_pack(self.attention_kernel, borders)
        return self.model.run_layers(hidden[None], (cos[None], sin[None]), attend, cache)[0]

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        pixels: torch.Tensor | None = None,
        grids: Grids = (),
        supervised: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        **batch: Any,
    ) -> torch.Tensor | CausalLMOutput:
        """Logits (T, vocabulary) of a pack, or with ``targets`` its summed loss (float32 scalar).

        ``input_ids`` (T,) int64, negative at image tokens. ``positions`` (T,) int64, from 0 in each document.
        ``cu_seqlens`` (documents + 1,) int32. ``pixels`` (C, 3, H, W): each picture's global view and crops, with
        ``grids`` [(rows, columns)] per picture. ``supervised`` (M,) positions whose next token is scored against
        ``targets`` (M,).

        Called with padded ids of two dimensions, as by transformers' users, it runs ``batches.forward_batch``.
        """
        if positions is None or cu_seqlens is None:
            return forward_batch(self, input_ids, **batch)
        hidden = self.hidden_states(input_ids, positions, cu_seqlens, pixels, grids)
        if targets is None or supervised is None:
            return self.lm_head(hidden)
        if len(targets) == 0:
            return self.lm_head(hidden[:1], input_ids.new_zeros(1)) * 0
        return self.lm_head(hidden[supervised], targets)

    def generate(
        self, input_ids: torch.Tensor, *, max_new_tokens: int, eos_token_id: Collection[int], **batch: Any
    ) -> torch.Tensor:
        """Greedy answers to a batch as transformers' processors make it, padded on either side.

        ``eos_token_id``: ids that end an answer, those of the folder's generation_config.json. Returns what
        ``batches.generate_batch`` returns.
        """
        return generate_batch(self, input_ids, max_new_tokens=max_new_tokens, end_ids=eos_token_id, **batch)

    def recompute_activations(self, recompute: bool) -> None:
        """Keep only the input of each decoder layer and of each few crops, and compute the rest again in backward."""
        self.model.recompute_layers = recompute
        self.model.vision_embed_tokens.img_processor.recompute = recompute

    def freeze(self, *, train_vision: bool) -> None:
        """Stop gradients of what is never trained, and of vision tower and projector unless ``train_vision``."""
        vision = self.model.vision_embed_tokens
        self.model.trains_vision = train_vision
        for module in vision.img_processor.never_trained() if train_vision else [vision]:
            module.requires_grad_(False)

    @property
    def trains_vision(self) -> bool:
        """Whether vision tower and projector are trained (see ``freeze``)."""
        return self.model.trains_vision

    def training_flops(self, lengths: Iterable[int], supervised_tokens: int, crops: int, image_tokens: int) -> float:
        """Model FLOPs of forward and backward of a pack of documents of these lengths, as costs.py counts them."""
        flops = pack_flops(self.sizes, lengths, supervised_tokens, crops, image_tokens)
        return flops.training(train_vision=self.trains_vision)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write a folder as transformers does, but in the official layout.

        Names as in the state dict (transformers would run them through CLIP's renaming), files of the official size,
        and where the model was read from a folder that is still there, its other files too: see folder.py.
        """
        defaults = {"max_shard_size": SHARD_BYTES, "save_original_format": False}
        super().save_pretrained(save_directory, **defaults | options)
        if options.get("is_main_process", True):
            save_beside_weights(self.config.name_or_path, save_directory)


def model_sizes(config: Phi3VConfig) -> ModelSizes:
    """Return the sizes that costs are computed from."""
    text, vision = config.text(), config.vision()
    return ModelSizes(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        key_value_width=text.num_key_value_heads * config.head_dim,
        vocabulary=text.vocab_size,
        vision_hidden=vision.hidden_size,
        vision_intermediate=vision.intermediate_size,
        vision_layers=vision.num_hidden_layers + FEATURE_LAYER + 1,
        crop_side=vision.image_size,
        patch_side=vision.patch_size,
    )
