"""Sample → document. Two classes here are for the outside: the processors in the manner of transformers."""

from typing import Any

__all__ = ["Phi3VImageProcessor", "Phi3VProcessor"]


def __getattr__(name: str) -> Any:
    """Import the two when they are asked for: transformers takes seconds that loader processes don't need to spend."""
    if name == "Phi3VImageProcessor":
        from phi3v_dist.documents.image_processing_phi3v import Phi3VImageProcessor

        return Phi3VImageProcessor
    if name == "Phi3VProcessor":
        from phi3v_dist.documents.processing_phi3v import Phi3VProcessor

        return Phi3VProcessor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
