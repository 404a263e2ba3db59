"""The streaming loop: denoise a chunk, decode it, write its context, switch prompts."""
