"""Wan's video decoder: the golden pixels, chunks equal the whole, states can be kept, bad files."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from afstream.errors import CheckpointError, ConfigError
from afstream.families.wan.vae import WanVae, load_vae

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tests.wan_folder import write_vae

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGINAL = GOLDEN / "Wan2.1_VAE.pth"


@pytest.fixture(scope="module")
def vae() -> WanVae:
    return load_vae(ORIGINAL)


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "vae.safetensors")


@pytest.fixture
def weights():
    """The golden weights, to spoil."""
    return torch.load(ORIGINAL, weights_only=True)


def decode_in_chunks(vae, latents, splits):
    parts, state = [], None
    for chunk in latents.split(splits, dim=1):
        video, state = vae.decode(chunk, state)
        parts.append(video)
    return torch.cat(parts, 1), state


def tensors(state):
    return [value for value in state if isinstance(value, torch.Tensor)]


def test_the_golden_pixels(vae, golden):
    video, _ = vae.decode(golden["latents"])
    error = (video - golden["pixels"]).abs()
    # of a range of 2; the golden pixels themselves are 1.3e-5 from what double precision gives
    assert error.max() < 2e-5
    assert error.mean() < 1e-6


def test_the_golden_latents(vae, golden):
    latents, _ = vae.encode(golden["encode_pixels"])
    assert_close(latents, golden["encode_latents"], rtol=0, atol=2e-6)
    # a scene's first frame alone, which is what training shows a teacher
    first, _ = vae.encode(golden["encode_pixels"][:, :1])
    assert_close(first, golden["encode_latents"][:, :1], rtol=0, atol=2e-6)


def test_encoding_in_parts_is_bit_for_bit_the_whole(vae, golden):
    pixels = golden["encode_pixels"]
    whole, _ = vae.encode(pixels)
    start, state = vae.encode(pixels[:, :5])
    rest, _ = vae.encode(pixels[:, 5:], state)
    assert torch.equal(torch.cat([start, rest], dim=1), whole)
    # the state can be kept and come back to
    assert torch.equal(vae.encode(pixels[:, 5:], state)[0], rest)


@pytest.mark.parametrize("splits", [(3, 3, 1), (1, 1, 5), (2, 4, 1), (7,)], ids=str)
def test_chunks_are_bit_for_bit_the_whole(vae, golden, splits):
    latents = golden["latents"][..., :3, :5]
    whole, _ = vae.decode(latents)
    assert whole.shape == (1, 25, 3, 24, 40)
    chunked, _ = decode_in_chunks(vae, latents, splits)
    assert torch.equal(chunked, whole)


def test_it_is_what_diffusers_decodes_at_once(vae):
    latents = torch.randn(2, 4, 16, 4, 6)
    config = vae.autoencoder.config
    mean, std = (torch.tensor(x)[:, None, None] for x in (config.latents_mean, config.latents_std))
    raw = (latents * std + mean).transpose(1, 2)
    with torch.no_grad():
        expected = vae.autoencoder.decode(raw).sample.transpose(1, 2)
    assert_close(decode_in_chunks(vae, latents, 3)[0], expected, rtol=0, atol=1e-6)


def test_a_kept_state_branches_and_is_never_changed(vae):
    first, left, right = (torch.randn(1, 3, 16, 4, 4) for _ in range(3))
    _, state = vae.decode(first)
    kept = [value.clone() for value in tensors(state)]
    to_left, _ = vae.decode(left, state)
    to_right, _ = vae.decode(right, state)
    assert all(map(torch.equal, tensors(state), kept))
    assert not torch.equal(to_left, to_right)
    assert torch.equal(vae.decode(left, state)[0], to_left)


def test_a_state_from_the_first_frame_branches_too(vae):
    # after one latent frame the caches are only half filled
    _, state = vae.decode(torch.randn(1, 1, 16, 4, 4))
    more = torch.randn(1, 2, 16, 4, 4)
    once, _ = vae.decode(more, state)
    assert once.shape[1] == 8
    assert torch.equal(vae.decode(more, state)[0], once)


def test_memory_does_not_grow(vae):
    state, sizes = None, []
    for _ in range(4):
        _, state = vae.decode(torch.randn(1, 3, 16, 4, 4), state)
        # storages, because a view of something larger would keep it alive
        sizes.append(sum(value.untyped_storage().nbytes() for value in tensors(state)))
    assert len(set(sizes)) == 1


def test_it_asks_for_no_gradients_and_runs_in_a_stream(vae):
    video, state = vae.decode(torch.randn(1, 3, 16, 4, 4))
    assert not video.requires_grad
    with torch.inference_mode():
        again, _ = vae.decode(torch.randn(1, 3, 16, 4, 4), state)
    assert again.abs().max() <= 1


def test_bfloat16_is_near(golden):
    vae = load_vae(ORIGINAL, dtype=torch.bfloat16)
    video, _ = vae.decode(golden["latents"])
    assert (vae.dtype, video.dtype) == (torch.bfloat16, torch.bfloat16)
    assert (video.float() - golden["pixels"]).abs().mean() < 0.02


def test_a_diffusers_folder_gives_the_same(tmp_path, vae, golden):
    other = load_vae(write_vae(tmp_path, "diffusers"))
    latents = golden["latents"][:, :2]
    assert torch.equal(other.decode(latents)[0], vae.decode(latents)[0])


def test_the_folder_says_how_latents_are_normalised(tmp_path, vae):
    folder = write_vae(tmp_path, "diffusers")
    config = json.loads((folder / "config.json").read_text())
    config["latents_mean"] = [0.0] * 16
    config["latents_std"] = [1.0] * 16
    (folder / "config.json").write_text(json.dumps(config))
    raw = (
        torch.zeros(1, 1, 16, 4, 4)
        + torch.tensor(vae.autoencoder.config.latents_mean)[:, None, None]
    )
    expected, _ = vae.decode(torch.zeros(1, 1, 16, 4, 4))
    assert torch.equal(load_vae(folder).decode(raw)[0], expected)


class RunsCode:
    def __reduce__(self):
        return print, ("code from a file has run",)


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda w: without(w, "encoder.conv1.weight"), r"no encoder\.conv1\.weight"),
        (lambda w: without(w, "decoder.middle.1.proj.bias"), r"1 missing.*attentions\.0\.proj"),
        (lambda w: {"blocks.0.attn.q.weight": torch.zeros(2, 2)}, r"no encoder\.conv1\.weight"),
        (lambda w: {**w, "conv2.weight": torch.zeros(48, 48, 1, 1, 1)}, "48 latent channels"),
        (lambda w: {**w, "conv2.weight": torch.zeros(16)}, r"conv2\.weight is \(16,\), not of 5"),
        (
            lambda w: {**w, "decoder.conv1.bias": torch.zeros(17)},
            r"decoder\.conv_in\.bias is \(17,\), the model needs \(16,\)",
        ),
        (lambda w: {**w, "decoder.upsamples.x": torch.zeros(1)}, "other names"),
        (lambda w: {**w, "step": 7}, "'step', which is no tensor"),
        (lambda w: [1, 2], "holds no weights by name"),
        (lambda w: RunsCode(), "could run code"),
    ],
    ids=[
        "name missing",
        "inner name missing",
        "other family",
        "wan 2.2",
        "other axes",
        "other shape",
        "odd name",
        "no tensor",
        "no names",
        "code",
    ],
)
def test_wrong_files_are_told_in_one_sentence(tmp_path, weights, capsys, spoil, says):
    path = tmp_path / "Wan2.1_VAE.pth"
    torch.save(spoil(weights), path)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_vae(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "has run" not in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_truncated_file(tmp_path, share):
    whole = ORIGINAL.read_bytes()
    path = tmp_path / "Wan2.1_VAE.pth"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="cut short"):
        load_vae(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_vae(tmp_path / "Wan2.1_VAE.pth")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "AutoencoderKL"}, "describes a AutoencoderKL"),
        ({"z_dim": 48}, "48 latent channels"),
        ({"dim_mult": [1, 2]}, r"dim_mult is \[1, 2\]; it must be a list of 4; give that file"),
        ({"base_dim": 8}, "does not fit the model"),
        ({"base_dim": "wide"}, "base_dim is 'wide'; it must be a whole number, 1 to 1024"),
    ],
    ids=str,
)
def test_wrong_configs(tmp_path, change, says):
    folder = write_vae(tmp_path, "diffusers")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=says):
        load_vae(folder)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [("", "download it again"), ("{", "download it again"), ("[]", "as it is published")],
)
def test_a_broken_config(tmp_path, content, remedy):
    folder = write_vae(tmp_path, "diffusers")
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"config\.json.*{remedy}"):
        load_vae(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="No such file or directory; add that file"):
        load_vae(folder)


def test_shards(tmp_path, vae):
    folder = write_vae(tmp_path, "diffusers")
    whole = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(whole)
    places = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(weights)}
    for part in set(places.values()):
        save_file({n: w.clone() for n, w in weights.items() if places[n] == part}, folder / part)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    whole.unlink()
    latents = torch.randn(1, 2, 16, 4, 4)
    assert torch.equal(load_vae(folder).decode(latents)[0], vae.decode(latents)[0])
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"part-1\.safetensors"):
        load_vae(folder)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="weight_map is missing; give that file as"):
        load_vae(folder)


def test_diffusers_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"pip install 'afstream\[wan\]'$"):
        load_vae(ORIGINAL)


def test_diffusers_is_too_old(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", types.ModuleType("diffusers"))
    with pytest.raises(ConfigError, match=r"AutoencoderKLWan.*--upgrade$"):
        load_vae(ORIGINAL)


def test_importing_afstream_loads_neither_package():
    code = (
        "import sys, afstream, afstream.families.wan.vae, afstream.families.wan.text;"
        "print({'diffusers', 'transformers', 'tokenizers'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
