"""The backbone, its layers, block swap, and the protocols of a model's parts."""
