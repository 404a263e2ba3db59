"""Triton kernels and their launches, one file per family; see the files of the same name above."""
