"""The streaming KV cache: which chunks are kept, and at which positions they are read."""
