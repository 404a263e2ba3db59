"""The streaming KV cache: what is kept of finished chunks, and where it is read."""
