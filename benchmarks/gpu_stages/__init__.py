"""The stages of `gpu_check.py`: correctness, then a production-size chunk, each on its own."""
