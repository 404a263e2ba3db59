"""Wan2.1 text-to-video models: backbone, VAE and text encoder of a downloaded folder."""
