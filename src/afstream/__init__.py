"""afstream: streaming, prompt-switching, long video diffusion."""

__version__ = "0.1.0"
