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
from hypothesis import Phase, settings
from safetensors.torch import save_file

# Read when a Triton kernel is defined, so it must stand before any test imports one. With a GPU,
# too: the tests compute on the CPU, and what needs the GPU runs in a process of its own.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Also fills fresh buffers with NaN, so that whoever reads a row before writing it fails.
torch.use_deterministic_algorithms(mode=True)

# No deadline, because a busy machine is not a bug; derandomized, so that a red run stays red.
settings.register_profile("afstream", derandomize=True, deadline=None, database=None)
# for planted faults: that one example fails is enough, it need not become small
settings.register_profile(
    "first", settings.get_profile("afstream"), phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("afstream")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  a library may draw from the global generator


@pytest.fixture(autouse=True, scope="session")
def reports(tmp_path_factory):
    """Reports of faults that tests provoke stay out of the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A complete Wan folder by layout, for tests that only read it; as the next two are."""
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from tests.wan_folder import make_wan_folder

    root = tmp_path_factory.mktemp("models")
    return {name: make_wan_folder(root / name, layout=name) for name in ("original", "diffusers")}


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    """A student of the folders' size, with a moving average."""
    from tests.wan_transformer import wan_weights

    path = tmp_path_factory.mktemp("student") / "student.pt"
    last, average = (
        {f"model.{name}": value for name, value in wan_weights(seed=seed).items()}
        for seed in (1, 2)
    )
    torch.save({"generator": last, "generator_ema": average}, path)
    return path


@pytest.fixture(scope="session")
def lora(tmp_path_factory):
    """A LoRA for it, rank 4, alpha 8."""
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    layer, generator = "base_model.model.blocks.0.self_attn.q", torch.Generator().manual_seed(3)
    down, up = (torch.randn(shape, generator=generator) for shape in ((4, 64), (64, 4)))
    save_file(
        {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, path, {"lora_alpha": "8"}
    )
    return path
