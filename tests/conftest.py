"""What every test stands on: a CPU that behaves alike everywhere, fixed seeds, poisoned memory."""

import os

# Read when torch loads. Small tensors gain nothing from more threads, and where the cores are
# shared, threads that wait for each other cost a lot.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when the first matrix product runs on a GPU; deterministic algorithms need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import pytest
import torch
from hypothesis import settings

# Read when a Triton kernel is defined, so it must stand before any test imports one. With a GPU,
# too: the tests compute on the CPU, and what needs the GPU runs in a process of its own.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Also fills fresh buffers with NaN, so that whoever reads a row before writing it fails.
torch.use_deterministic_algorithms(mode=True)

# No deadline, because a busy machine is not a bug; derandomized, so that a red run stays red.
settings.register_profile("afstream", derandomize=True, deadline=None, database=None)
settings.load_profile("afstream")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  a library may draw from the global generator
