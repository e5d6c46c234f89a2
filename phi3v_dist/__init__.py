"""Full-parameter fine-tuning of Phi-3-Vision on product catalogues."""

__version__ = "0.1.0"
