"""Training: the pocket recipe, teacher forcing on the stream's own attention."""
