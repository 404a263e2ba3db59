"""The stages of `cpu_path.py`."""
