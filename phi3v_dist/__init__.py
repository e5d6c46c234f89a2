"""Full-parameter fine-tuning of Phi-3-Vision on product catalogues."""

__version__ = "0.1.0"


def register() -> None:
    """Make transformers' Auto classes load Phi-3-Vision folders through our classes, without remote code.

    Also where ``config.json`` names remote code in ``auto_map``. May be called any number of times.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForCausalLM, AutoProcessor

    from phi3v_dist.documents import Phi3VImageProcessor, Phi3VProcessor
    from phi3v_dist.model import Phi3VConfig, Phi3VForCausalLM

    AutoConfig.register(Phi3VConfig.model_type, Phi3VConfig, exist_ok=True)
    AutoModelForCausalLM.register(Phi3VConfig, Phi3VForCausalLM, exist_ok=True)
    AutoImageProcessor.register(Phi3VConfig, image_processor_classes={"pil": Phi3VImageProcessor}, exist_ok=True)
    AutoProcessor.register(Phi3VConfig, Phi3VProcessor, exist_ok=True)
