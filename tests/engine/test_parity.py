"""The engine against recorded rollouts of the method (see tests/golden)."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tests.kvcache.make_recapture import make_case

from afstream.kvcache.positions import ABSOLUTE
from afstream_kernels import apply_rope, rope_tables

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
CASES = ("plain", "anchor", "recache", "recapture")


def load_parity():
    spec = importlib.util.spec_from_file_location("parity", ROOT / "benchmarks" / "parity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parity = load_parity()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rollouts_match(dtype, capsys):
    cases = [str(GOLDEN / f"rollout_{name}.safetensors") for name in CASES]
    weights = str(GOLDEN / "backbone.safetensors")
    assert parity.main(["--weights", weights, "--dtype", dtype, *cases]) == 0
    assert capsys.readouterr().out.count("ok") == len(cases)


def test_the_rollout_made_here_is_what_the_plain_stream_makes():
    """The others were recorded; `recapture` is recomputed from its inputs, see its script."""
    _, recorded = parity.read_case(GOLDEN / "rollout_recapture.safetensors")
    made = make_case()
    assert made.keys() == recorded.keys()
    for name, value in made.items():
        assert parity.relative_error(value.float(), recorded[name]) < 1e-6, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distribution_matching_matches(dtype, capsys):
    case = str(GOLDEN / "dmd.safetensors")
    assert parity.main(["--dtype", dtype, case]) == 0
    # two flows, two losses, a gradient
    assert capsys.readouterr().out.count("ok") == 5


@pytest.mark.parametrize(
    ("wrong", "figures"),
    [
        ({"guidance_scale": 2.0}, {"dmd_loss", "dmd_grad"}),
        ({"eps": 1e-2}, {"teacher_flow", "critic_flow", "dmd_loss", "dmd_grad", "critic_loss"}),
    ],
    ids=["guidance", "norm"],
)
def test_wrong_figures_of_distribution_matching_are_noticed(wrong, figures):
    config, case = parity.read_case(GOLDEN / "dmd.safetensors")
    found = parity.matching_figures(config | wrong, case, torch.float64)
    off = {name for name, it in found.items() if parity.relative_error(it, case[name]) > 1e-5}
    assert off == figures


@pytest.fixture
def small_tiles(monkeypatch):
    """A slot and a query block in one tile each: Triton's interpreter is paid by the tile."""
    attention = pytest.importorskip("afstream_kernels.triton.attention")
    tile = attention.Tile(64, 64, 4, 1, descriptors=True)
    monkeypatch.setattr(attention, "forward_tile", lambda _: tile)


# frames until every part of a rollout was met: a full window, what a switch renews, the junction
SHORT = {"plain": 18, "anchor": 36, "recache": 30, "recapture": 30, "lora": 27}


@pytest.mark.parametrize("name", SHORT)
def test_rollouts_match_on_the_reference(name):
    assert_matches(name, "reference")


def test_the_rollout_of_anchors_matches_on_triton(small_tiles):
    """What the other rollouts ask of Triton, `test_backends` holds to the reference."""
    assert_matches("anchor", "triton")


def assert_matches(name, backend):
    config, case = parity.read_case(GOLDEN / f"rollout_{name}.safetensors")
    if name == "lora":
        lora = parity.read_lora(GOLDEN / "lora_lora.pt", alpha=config["lora_alpha"])
        base = parity.read_student(GOLDEN / "lora_base.pt").weights
        weights = parity.merge_loras(base, [lora])
    else:
        weights = parity.read_student(GOLDEN / "backbone.safetensors").weights
    frames = SHORT[name]
    # a clone, because it becomes the latents
    short = case | {"noise": case["noise"][:, :frames].clone()}
    latents, _ = parity.replay(config, short, weights, torch.float32, backend)
    assert latents.shape[1] == frames
    assert parity.relative_error(latents, case["latents"][:, :frames]) < 1e-5


def test_student_checkpoint_with_lora_matches():
    base, lora = str(GOLDEN / "lora_base.pt"), str(GOLDEN / "lora_lora.pt")
    case = str(GOLDEN / "rollout_lora.safetensors")
    assert parity.main(["--base", base, "--lora", lora, case]) == 0
    # without the LoRA it must not
    assert parity.main(["--base", base, case]) == 1


def test_a_wrong_memory_is_noticed(tmp_path):
    """The anchor case run without its junction lies far above the tolerance."""
    config, case = parity.read_case(GOLDEN / "rollout_anchor.safetensors")
    weights = parity.read_student(GOLDEN / "backbone.safetensors").weights
    latents, _ = parity.replay(config | {"use_prompt_cache": False}, case, weights, torch.float32)
    assert parity.relative_error(latents, case["latents"]) > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_window_holds_the_recorded_keys_and_values(name):
    config, case = parity.read_case(GOLDEN / f"rollout_{name}.safetensors")
    weights = parity.read_student(GOLDEN / "backbone.safetensors").weights
    _, state = parity.replay(config, case, weights, torch.float64)
    cache, policy = state.cache, state.cache.policy
    last = state.frame - policy.lengths.chunk_frames
    seen = policy.visible(cache.anchors, last, policy.lengths.chunk_frames)
    junction = cache.anchors.junction
    window = [chunk for chunk in seen if chunk.frame != junction]
    found_k, found_v = [], []
    for chunk in window:
        slot = cache.slot_frames.index(chunk.frame)
        # stored keys stand at positions 0, 1, 2: rotate them back, or on to their own frame
        absolute = policy.positions is ABSOLUTE
        key = rotated(cache.pool.keys[:, :, slot], config, chunk.frame if absolute else None)
        found_k.append(key)
        found_v.append(cache.pool.values[:, :, slot])
    for found, recorded in ((found_k, case["kv_k"]), (found_v, case["kv_v"])):
        tokens = torch.cat(found, dim=2).float()
        assert parity.relative_error(tokens, recorded) < 1e-5


def rotated(keys, config, frame):
    grid = (config["frames_per_block"], config["latent_h"] // 2, config["latent_w"] // 2)
    head_dim = config["dim"] // config["num_heads"]

    def tables(start):
        pair = rope_tables(start, grid=grid, head_dim=head_dim, dtype=keys.dtype)
        return [table[:, None] for table in pair]

    cos, sin = tables(0)
    plain = apply_rope(keys, cos, -sin)
    return plain if frame is None else apply_rope(plain, *tables(frame))


def test_missing_weights_are_one_sentence(tmp_path):
    with pytest.raises(parity.AfstreamError, match="no checkpoint at"):
        parity.read_student(tmp_path / "nothing.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((GOLDEN / "lora_base.pt").read_bytes()[:1000])
    with pytest.raises(parity.AfstreamError, match="cannot be read"):
        parity.read_student(broken)
