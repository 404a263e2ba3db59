"""Wan's video codec: golden pixels, diffusers' own, chunks and the whole, states, bad files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_vae import pruned_wan_shapes
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from afstream.checkpoints.configs import VaeFile
from afstream.errors import CheckpointError
from afstream.families.wan.autoencoder import Autoencoder, EnlargingConv
from afstream.families.wan.facts import LATENT_MEAN, LATENT_STD
from afstream.families.wan.vae import WanVae, load_vae
from afstream.families.wan.vae_names import vae_name

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tests.wan_folder import diffusers_vae, write_vae

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
    assert state is not None
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


@pytest.mark.parametrize("splits", [(3, 3, 1), (1, 1, 5), (2, 4, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_chunks_are_the_whole(golden, splits, dtype):
    vae = load_vae(ORIGINAL, dtype=dtype)
    latents = golden["latents"][..., :3, :5]
    whole, _ = vae.decode(latents)
    assert whole.shape == (1, 25, 3, 24, 40)
    chunked, state = decode_in_chunks(vae, latents, splits)
    # a convolution over more frames may round otherwise
    assert_close(chunked, whole, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)
    # in the same parts it is the same, bit for bit
    again, last = decode_in_chunks(vae, latents, splits)
    assert torch.equal(again, chunked)
    assert all(map(torch.equal, state, last))


def test_a_long_call_goes_three_frames_at_a_time(vae, golden):
    latents = golden["latents"][..., :3, :5]
    whole, _ = vae.decode(latents)
    assert torch.equal(decode_in_chunks(vae, latents, 3)[0], whole)


def exact_upsample(monkeypatch):
    # diffusers rounds to float32 there, whatever the dtype
    name = "diffusers.models.autoencoders.autoencoder_kl_wan.WanUpsample.forward"
    monkeypatch.setattr(name, nn.Upsample.forward)


@torch.no_grad()
def decoded_by_diffusers(vae, latents, dtype):
    """The whole clip by diffusers' own `decode`."""
    mean, std = (
        torch.tensor(x, dtype=torch.promote_types(dtype, torch.float32))[:, None, None]
        for x in (LATENT_MEAN, LATENT_STD)
    )
    raw = (latents.to(mean.dtype) * std + mean).to(dtype).transpose(1, 2)
    other = diffusers_vae(vae)
    return other.decode(raw).sample.transpose(1, 2)


@pytest.mark.parametrize("splits", [(4,), (3, 1), (1, 1, 2)], ids=str)
def test_in_float64_it_is_what_diffusers_decodes_at_once(monkeypatch, splits):
    exact_upsample(monkeypatch)
    vae = load_vae(ORIGINAL, dtype=torch.float64)
    latents = torch.randn(2, 4, 16, 3, 5, dtype=torch.float64)
    expected = decoded_by_diffusers(vae, latents, torch.float64)
    assert_close(decode_in_chunks(vae, latents, splits)[0], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_in_float64_it_is_what_diffusers_encodes(vae):
    exact = load_vae(ORIGINAL, dtype=torch.float64)
    pixels = torch.rand(2, 9, 3, 24, 40, dtype=torch.float64) * 2 - 1
    raw = diffusers_vae(exact).encode(pixels.transpose(1, 2)).latent_dist.mode().transpose(1, 2)
    mean, std = (torch.tensor(x).double()[:, None, None] for x in (LATENT_MEAN, LATENT_STD))
    assert_close(exact.encode(pixels)[0] * std + mean, raw, rtol=0, atol=1e-6)


def root_mean_square(error):
    return error.double().square().mean().sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_errs_no_more_than_diffusers(monkeypatch, dtype):
    latents = torch.randn(1, 4, 16, 6, 9)
    exact, _ = load_vae(ORIGINAL, dtype=torch.float64).decode(latents)
    vae = load_vae(ORIGINAL, dtype=dtype)
    found, _ = decode_in_chunks(vae, latents, 3)
    error, theirs = (
        root_mean_square(video.double() - exact)
        for video in (found, decoded_by_diffusers(vae, latents, dtype))
    )
    # of a range of 2
    assert 0 < error < {torch.float32: 2e-6, torch.bfloat16: 0.03}[dtype]
    assert error < 1.5 * theirs


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_at_the_real_widths_it_is_what_diffusers_decodes(dtype):
    torch.manual_seed(0)
    vae = WanVae(Autoencoder(VaeFile()).to(dtype).requires_grad_(False))
    latents = torch.randn(1, 2, 16, 16, 24)
    found, _ = decode_in_chunks(vae, latents, 1)
    at_once, _ = vae.decode(latents)
    expected = decoded_by_diffusers(vae, latents, dtype)
    spread = expected.double().std()
    assert spread > 1e-3
    near = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    assert root_mean_square(at_once.double() - expected.double()) < near * spread
    assert root_mean_square(at_once.double() - found.double()) < near * spread


def test_the_kernels_decode_the_same(monkeypatch, vae, golden):
    """All of the decoder through Triton, in its interpreter."""
    pytest.importorskip("triton")
    latents = golden["latents"][:, :4, :, :2, :3]
    expected, state = decode_in_chunks(vae, latents, (3, 1))
    monkeypatch.setenv("AFSTREAM_BACKEND", "triton")
    found, other = decode_in_chunks(vae, latents, (3, 1))
    assert not torch.equal(found, expected)
    assert_close(found, expected, rtol=0, atol=2e-5)
    assert [one.stride() for one in other] == [one.stride() for one in state]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 2)], ids=str)
def test_the_enlarging_convolution_is_one_over_repeated_pixels(size):
    conv = EnlargingConv(6, 3).double().requires_grad_(False)
    frames = torch.randn(2, 3, *size, 6, dtype=torch.float64)
    pixels = frames.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(0, 1)
    expected = functional.conv2d(pixels.permute(0, 3, 1, 2), conv.weight, padding=1)
    expected = expected.permute(0, 2, 3, 1).unflatten(0, (2, 3))
    assert_close(conv(frames), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("config", [VaeFile(), VaeFile(base_dim=24), VaeFile(decoder_base_dim=64)])
def test_weights_have_the_names_and_shapes_of_diffusers(config):
    diffusers: Any = pytest.importorskip("diffusers")
    with torch.device("meta"):
        ours = Autoencoder(config)
        theirs = diffusers.AutoencoderKLWan(
            base_dim=config.base_dim, decoder_base_dim=config.decoder_base_dim
        )
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}


def test_original_names_become_what_diffusers_makes_of_them():
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    names = pruned_wan_shapes()
    theirs = convert_wan_vae_to_diffusers({name: name for name in names})
    assert {vae_name(name): name for name in names} == theirs


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state[:-1],
        lambda state: (*state, state[-1]),
        lambda state: (state[0].double(), *state[1:]),
        lambda state: tuple(part[..., :-1, :] for part in state),
        lambda state: tuple(part.expand(2, -1, -1, -1, -1) for part in state),
        lambda state: (),
    ],
    ids=["one less", "one more", "other dtype", "narrower", "a batch", "nothing"],
)
def test_a_state_of_something_else_is_refused(vae, spoil):
    _, state = vae.decode(torch.randn(1, 1, 16, 4, 4))
    with pytest.raises(ValueError, match="state is of another"):
        vae.decode(torch.randn(1, 1, 16, 4, 4), spoil(state))


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


def test_bfloat16_rounds_latents_once(monkeypatch):
    vae, read = load_vae(ORIGINAL, dtype=torch.bfloat16), []
    decode = vae.autoencoder.decode
    monkeypatch.setattr(
        vae.autoencoder, "decode", lambda raw, past: decode(read.append(raw) or raw, past)
    )
    latents = torch.randn(1, 2, 16, 3, 4)
    vae.decode(latents)
    mean, std = (torch.tensor(values)[:, None, None] for values in (LATENT_MEAN, LATENT_STD))
    assert torch.equal(read[0], (latents * std + mean).movedim(2, -1).bfloat16())


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
    raw = torch.zeros(1, 1, 16, 4, 4) + torch.tensor(LATENT_MEAN)[:, None, None]
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
        (lambda w: {**w, "decoder.upsamples.x": torch.zeros(1)}, r"1 unknown.*upsamples\.x"),
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


def test_it_needs_no_other_package():
    code = (
        "import sys; from pathlib import Path; import torch;"
        "from afstream.families.wan.vae import load_vae;"
        f"load_vae(Path({str(ORIGINAL)!r})).decode(torch.zeros(1, 1, 16, 2, 2));"
        "print({'diffusers', 'transformers', 'tokenizers'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_importing_afstream_loads_neither_package():
    code = (
        "import sys, afstream, afstream.families.wan.vae, afstream.families.wan.text;"
        "print({'diffusers', 'transformers', 'tokenizers'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
