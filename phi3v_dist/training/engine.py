"""From a model folder to a DeepSpeed engine.

Enters: options, backend. Leaves: an engine whose parameters are partitioned (ZeRO-3) and hold the folder's weights.
The model is built empty under ``zero.Init``, then filled tensor by tensor by rank 0's reading: no rank ever holds the
whole model twice (facts: deepspeed.md, Loading under ZeRO-3).
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import initialization
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer

from phi3v_dist.checkpoints.choose import Checkpoint
from phi3v_dist.cluster.compiled import forget_shared_buffers
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.options import RunConfig
from phi3v_dist.errors import ConfigError
from phi3v_dist.model.folder import check_names, iterate_weights, read_config, shapes_in
from phi3v_dist.model.phi3v import Phi3VForCausalLM
from phi3v_dist.model.vision import ImageEmbedding
from phi3v_dist.training.backend import Backend
from phi3v_dist.training.groups import parameter_groups

# Settings of what is done here or by torch: step size, optimizer, schedule, precision.
_HAS_NO_PLACE = ("train_batch_size", "optimizer", "scheduler", "fp16", "amp")


def build_engine(config: RunConfig, backend: Backend, who: ClusterInfo, checkpoint: Checkpoint | None = None) -> Any:
    """Return a ``deepspeed.DeepSpeedEngine`` ready to train, or to load ``checkpoint`` first.

    Raises ModelFolderError, ConfigError.
    """
    settings = deepspeed_settings(config)
    if checkpoint is not None and checkpoint.num_ranks != who.num_ranks:
        settings["checkpoint"] = settings.get("checkpoint", {}) | {"load_universal": True}
    model = build_model(config, backend, settings)
    load_weights(model, config.model.folder, who)
    return start_engine(model, config, backend, settings)


def start_engine(model: Phi3VForCausalLM, config: RunConfig, backend: Backend, settings: dict[str, Any]) -> Any:
    """Return the engine of a partitioned model that holds its weights."""
    import deepspeed

    groups = parameter_groups(model, config.training.weight_decay)
    # A leaf is gathered in one piece: fewer collectives, and ranks may pass different numbers of crops through it.
    deepspeed.utils.set_z3_leaf_modules(model, [ImageEmbedding, Phi3DecoderLayer])
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=backend.optimizer(groups, config.training),
        config=settings,
        dist_init_required=False,
    )
    forget_shared_buffers()  # it has let all ranks meet
    return engine


def deepspeed_settings(config: RunConfig) -> dict[str, Any]:
    """The settings file, completed by what options decide. The plan counts micro-steps, so DeepSpeed must not.

    Raises ``ConfigError`` for a file that can't be read, is not a JSON object, is not of ZeRO stage 3, sets what
    options decide, or leaves a value to transformers ("auto").
    """
    path = Path(config.training.deepspeed_config)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        stage = settings["zero_optimization"]["stage"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _wrong_settings(f"DeepSpeed settings can't be read ({error!r})", str(path)) from None
    if open_keys := _keys_left_open(settings):
        raise _wrong_settings(f'{path} leaves values to transformers ("auto"): {", ".join(open_keys)}')
    if stage != 3:
        raise _wrong_settings(f"{path} is of ZeRO stage {stage}, the engine is built for stage 3", stage)
    ours = _decided_here(config)
    if set_too := [key for key in settings if key in ours or key in _HAS_NO_PLACE]:
        raise _wrong_settings(f"{path} sets what our options decide: {', '.join(set_too)}")
    return settings | ours


def _decided_here(config: RunConfig) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.training.gradient_clipping,  # absent, DeepSpeed would clip at 1.0
        "bf16": {"enabled": config.training.precision == "bf16"},
        # gradients are averaged and summed in float32: bf16 would round with each rank and micro-step
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
    }


def _keys_left_open(settings: object, key: str = "") -> list[str]:
    """Dotted keys whose value is "auto", at any depth."""
    if isinstance(settings, dict):
        inner = {f"{key}.{name}" if key else name: value for name, value in settings.items()}
        return [found for name, value in inner.items() for found in _keys_left_open(value, name)]
    return [key] if settings == "auto" else []


def _wrong_settings(what: str, value: object = None) -> ConfigError:
    mend = "Name a JSON file such as ds_configs/zero3.json."
    return ConfigError(what, where="training.deepspeed_config", value=value, mend=mend)


def build_model(config: RunConfig, backend: Backend, settings: dict[str, Any]) -> Phi3VForCausalLM:
    """Build the model partitioned and empty, frozen where nothing trains."""
    import deepspeed

    # No dtype argument: on a CPU DeepSpeed 0.19 would take it for bf16 whatever it says; the settings hold it.
    with initialization.no_init_weights(), deepspeed.zero.Init(config_dict_or_path=settings):
        model = Phi3VForCausalLM(read_config(config.model.folder))
    assert {parameter.dtype for parameter in model.parameters()} == {backend.dtype}
    model.attention_kernel = backend.attention_kernel
    model.lm_head.loss_kernel = backend.loss_kernel
    model.rope_mode = config.model.rope_mode
    model.recompute_activations(config.model.activation_checkpointing)
    model.freeze(train_vision=config.model.train_vision)
    return model


def load_weights(model: Phi3VForCausalLM, folder: str, who: ClusterInfo) -> None:
    """Fill a partitioned model from a folder; every rank walks the same names, rank 0's values count."""
    import deepspeed

    parameters = dict(model.named_parameters())
    check_names({name: tuple(p.ds_shape) for name, p in parameters.items()}, shapes_in(folder), folder)
    for name, tensor in iterate_weights(folder):
        with deepspeed.zero.GatheredParameters([parameters[name]], modifier_rank=0), torch.no_grad():
            if who.is_rank_0:
                parameters[name].copy_(tensor)
