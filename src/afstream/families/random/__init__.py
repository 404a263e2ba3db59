"""Backbones of Wan2.1's sizes with random weights: for speed and memory, not for pictures."""
