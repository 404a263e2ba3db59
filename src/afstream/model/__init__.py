"""The backbone, its weights, and the small protocols of text encoder and VAE."""
