"""Phi-3-Vision: configuration, vision, rope, attention, loss, generation, folder."""

from phi3v_dist.model.configuration import Phi3VConfig
from phi3v_dist.model.phi3v import Phi3VForCausalLM

__all__ = ["Phi3VConfig", "Phi3VForCausalLM"]
