"""Triton kernels and their launches; the files of the same name above define the operations."""
