"""A film on disk: the video and what stands beside it, so that it can be gone on with."""
