"""Folders of both layouts, a student and a LoRA, made once for all tests that only read them."""

import pytest
import torch
from safetensors.torch import save_file
from tests.wan_transformer import wan_weights


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A complete folder by layout."""
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from tests.wan_folder import make_wan_folder

    root = tmp_path_factory.mktemp("models")
    return {name: make_wan_folder(root / name, layout=name) for name in ("original", "diffusers")}


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    """A student of the folders' size, with a moving average."""
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
