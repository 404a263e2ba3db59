"""The tiny decoder: what the public code decodes at once, in any chunks; telling files apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.tiny_vae import (
    FULL,
    SMALL,
    pruned_wan_shapes,
    tiny_decoder_shapes,
    tiny_encoder_shapes,
    tiny_weights,
    write_pruned_wan,
    write_tiny,
)
from torch.nn import functional
from torch.testing import assert_close

from afstream.checkpoints.parts import find_tiny
from afstream.errors import CheckpointError
from afstream.families.wan.decoders import open_decoder
from afstream.families.wan.tiny import LATENT_MEAN, LATENT_STD, TinyDecoder, TinyVae, load_tiny
from afstream.families.wan.vae import WanVae

GOLDEN_VAE = Path(__file__).parents[1] / "golden" / "Wan2.1_VAE.pth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with both kinds, of the same weights."""
    path = tmp_path_factory.mktemp("model")
    write_tiny(path / "taew2_1.pth", tiny_weights())
    write_tiny(path / "lighttaew2_1.pth", tiny_weights())
    return path


@pytest.fixture(scope="module")
def vae(folder) -> TinyVae:
    return load_tiny(folder / "taew2_1.pth")


def whole_clip(weights, latents):
    """The clip at once as the public code decodes it: normalised latents -> video in [0, 1].

    Frames of all times stand in one batch, blocks see the batch moved on by one frame, and the
    first three frames are cut off at the end. Up-sampling comes before the growth in time.
    """
    batch = latents.shape[0]

    def conv(index, x):
        weight = weights[f"decoder.{index}.weight"]
        return functional.conv2d(x, weight, weights.get(f"decoder.{index}.bias"), padding=1)

    x = torch.tanh(latents.flatten(0, 1) / 3) * 3
    x = conv(1, x).relu()
    for first in (3, 9, 15):
        for block in range(first, first + 3):
            by_time = x.unflatten(0, (batch, -1))
            before = torch.cat([torch.zeros_like(by_time[:, :1]), by_time[:, :-1]], 1)
            y = conv(f"{block}.conv.0", torch.cat([x, before.flatten(0, 1)], 1)).relu()
            x = (conv(f"{block}.conv.4", conv(f"{block}.conv.2", y).relu()) + x).relu()
        channels = x.shape[1]
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = functional.conv2d(x, weights[f"decoder.{first + 4}.conv.weight"])
        x = conv(first + 5, x.reshape(-1, channels, *x.shape[2:]))
    return conv(22, x.relu()).unflatten(0, (batch, -1)).clamp(0, 1)[:, 3:]


def decode_in_chunks(vae, latents, splits):
    parts, state = [], None
    for chunk in latents.split(splits, dim=1):
        video, state = vae.decode(chunk, state)
        parts.append(video)
    return torch.cat(parts, 1), state


@pytest.mark.parametrize("splits", [(5,), (3, 2), (1, 1, 3)], ids=str)
def test_it_is_what_the_public_code_decodes_at_once(folder, splits):
    vae = load_tiny(folder / "taew2_1.pth", dtype=torch.float64)
    latents = torch.randn(2, 5, 16, 3, 5, dtype=torch.float64)
    weights = {name: value.double() for name, value in tiny_weights().items()}
    expected = whole_clip(weights, latents) * 2 - 1
    video, _ = decode_in_chunks(vae, latents, splits)
    assert video.shape == (2, 17, 3, 24, 40)
    assert_close(video, expected, rtol=0, atol=1e-12)
    # not only clamped pixels, and a video that moves
    assert (video.abs() < 1).double().mean() > 0.9
    assert (video[:, 1:] - video[:, :-1]).abs().mean() > 0.01


def test_light_ones_read_raw_latents(folder):
    vae = load_tiny(folder / "lighttaew2_1.pth", dtype=torch.float64)
    assert vae.reads_raw
    latents = torch.randn(1, 2, 16, 3, 4, dtype=torch.float64)
    mean, std = (torch.tensor(x).double()[:, None, None] for x in (LATENT_MEAN, LATENT_STD))
    weights = {name: value.double() for name, value in tiny_weights().items()}
    expected = whole_clip(weights, latents * std + mean) * 2 - 1
    assert_close(vae.decode(latents)[0], expected, rtol=0, atol=1e-6)


def test_raw_latents_are_those_of_wans_own_decoder():
    diffusers = pytest.importorskip("diffusers")
    config = diffusers.AutoencoderKLWan(base_dim=4).config
    assert list(LATENT_MEAN) == config.latents_mean
    assert list(LATENT_STD) == config.latents_std


@pytest.mark.parametrize("splits", [1, 2, 3, (2, 4, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_chunks_are_bit_for_bit_the_whole(folder, splits, dtype):
    vae = load_tiny(folder / "taew2_1.pth", dtype=dtype)
    latents = torch.randn(1, 7, 16, 3, 5)
    whole, _ = vae.decode(latents)
    assert whole.shape == (1, 25, 3, 24, 40)
    assert whole.dtype == dtype
    assert torch.equal(decode_in_chunks(vae, latents, splits)[0], whole)


def test_a_scene_begins_with_one_frame_and_goes_on_with_four(vae):
    video, state = vae.decode(torch.randn(1, 1, 16, 2, 2))
    assert video.shape == (1, 1, 3, 16, 16)
    assert vae.decode(torch.randn(1, 1, 16, 2, 2), state)[0].shape == (1, 4, 3, 16, 16)


def test_a_kept_state_branches_and_is_never_changed(vae):
    first, left, right = (torch.randn(1, count, 16, 4, 4) for count in (1, 2, 2))
    _, state = vae.decode(first)
    kept = [value.clone() for value in state]
    to_left, _ = vae.decode(left, state)
    to_right, _ = vae.decode(right, state)
    assert all(map(torch.equal, state, kept))
    assert not torch.equal(to_left, to_right)
    assert torch.equal(vae.decode(left, state)[0], to_left)
    assert torch.equal(vae.decode(torch.cat([first, left], 1))[0][:, 1:], to_left)


def test_latents_are_not_changed(vae):
    latents = torch.randn(1, 2, 16, 4, 4)
    before = latents.clone()
    vae.decode(latents)
    assert torch.equal(latents, before)


def test_memory_does_not_grow(vae):
    state, sizes = None, []
    for count in (1, 3, 2, 3):
        _, state = vae.decode(torch.randn(1, count, 16, 4, 4), state)
        # storages, because a view of something larger would keep it alive
        sizes.append(sum(value.untyped_storage().nbytes() for value in state))
    pixels = 4 * 4
    values = 3 * (SMALL[0] * pixels + SMALL[1] * 4 * pixels + SMALL[2] * 16 * pixels)
    assert sizes == [4 * values] * 4


def test_it_asks_for_no_gradients_and_runs_in_a_stream(vae):
    video, state = vae.decode(torch.randn(1, 3, 16, 4, 4))
    assert not video.requires_grad
    with torch.inference_mode():
        again, _ = vae.decode(torch.randn(1, 3, 16, 4, 4), state)
    assert again.abs().max() <= 1


def test_bfloat16_is_near(folder, vae):
    low = load_tiny(folder / "taew2_1.pth", dtype=torch.bfloat16)
    latents = torch.randn(1, 3, 16, 4, 4)
    error = (low.decode(latents)[0].float() - vae.decode(latents)[0]).abs()
    assert 0 < error.mean() < 0.02


def test_bfloat16_rounds_latents_once(folder):
    low = load_tiny(folder / "lighttaew2_1.pth", dtype=torch.bfloat16)
    latent = torch.randn(1, 16, 4, 4)
    mean, std = (torch.tensor(values)[:, None, None] for values in (LATENT_MEAN, LATENT_STD))
    bounded = torch.tanh((latent * std + mean) / 3) * 3
    assert torch.equal(low._bounded(latent), bounded.bfloat16())


@pytest.mark.parametrize("encoder", [True, False])
@pytest.mark.parametrize("name", ["taew2_1.safetensors", "TAEW2_1_fp32.Safetensors", "taew2_1.pth"])
def test_layouts_give_the_same(tmp_path, vae, name, encoder):
    path = write_tiny(tmp_path / name, tiny_weights(), encoder=encoder)
    latents = torch.randn(1, 2, 16, 3, 3)
    assert torch.equal(load_tiny(path).decode(latents)[0], vae.decode(latents)[0])


def test_half_precision_files_are_brought_to_the_asked_dtype(tmp_path):
    halves = {name: value.half() for name, value in tiny_weights().items()}
    loaded = load_tiny(write_tiny(tmp_path / "taew2_1.pth", halves))
    assert loaded.dtype == torch.float32
    state = loaded.decoder.state_dict()
    assert all(torch.equal(state[name], value.float()) for name, value in halves.items())


def test_the_encoder_is_never_looked_at(tmp_path, vae):
    content = {**tiny_weights(), "encoder.odd": torch.full((3,), float("nan"))}
    loaded = load_tiny(write_tiny(tmp_path / "taew2_1.pth", content, encoder=False))
    assert {name.partition(".")[0] for name in loaded.decoder.state_dict()} == {"decoder"}
    latents = torch.randn(1, 1, 16, 3, 3)
    assert torch.equal(loaded.decode(latents)[0], vae.decode(latents)[0])


def test_the_full_size_is_the_public_layout():
    with torch.device("meta"):
        decoder = TinyDecoder(FULL)
    shapes = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
    public = tiny_decoder_shapes()
    assert shapes == public
    assert public["decoder.3.conv.0.weight"] == (256, 512, 3, 3)
    assert public["decoder.13.conv.weight"] == (256, 128, 1, 1)
    assert public["decoder.20.weight"] == (64, 64, 3, 3)
    # the public files hold 128 weights, encoder and decoder
    assert len(public) + len(tiny_encoder_shapes()) == 128


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda w: without(w, "decoder.1.weight"), r"no decoder\.1\.weight; give taew2_1\.pth"),
        (lambda w: without(w, "decoder.14.weight"), r"no decoder\.14\.weight; give"),
        (lambda w: without(w, "decoder.9.conv.2.bias"), r"1 missing.*decoder\.9\.conv\.2\.bias"),
        (lambda w: {**w, "decoder.3.skip.weight": torch.zeros(1)}, r"1 unknown.*decoder\.3\.skip"),
        (lambda w: {**w, "step": torch.zeros(1)}, "1 unknown, for example step"),
        (lambda w: {**w, "decoder.1.weight": torch.zeros(12, 48, 3, 3)}, "reads 48 latent channel"),
        (
            lambda w: {**w, "decoder.8.weight": torch.zeros(8)},
            r"8\.weight is \(8,\), not of 4",
        ),
        (
            lambda w: {**w, "decoder.22.weight": torch.zeros(12, 4, 3, 3)},
            r"decoder\.22\.weight is \(12, 4, 3, 3\), the model needs \(3, 4, 3, 3\)",
        ),
        (
            lambda w: {**w, "decoder.7.conv.weight": torch.zeros(24, 12, 1, 1)},
            r"decoder\.7\.conv\.weight is \(24, 12, 1, 1\), the model needs \(12, 12, 1, 1\)",
        ),
        (lambda w: {**w, "note": "x"}, "'note', which is no tensor"),
        (lambda w: [1, 2], "holds no weights by name"),
    ],
    ids=[
        "entry missing",
        "width missing",
        "name missing",
        "name unknown",
        "other name",
        "wan 2.2",
        "other axes",
        "patches of pixels",
        "grows three times",
        "no tensor",
        "no names",
    ],
)
def test_wrong_files_are_told_in_one_sentence(tmp_path, spoil, says):
    path = tmp_path / "taew2_1.pth"
    torch.save(spoil(tiny_weights()), path)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_tiny(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["taehv.pth", "taecvx.pth", "vae.safetensors", "taew2_2.pth"])
def test_a_name_that_does_not_tell_the_latents(tmp_path, name):
    path = write_tiny(tmp_path / name, tiny_weights(), encoder=False)
    with pytest.raises(CheckpointError, match="name it taew2_1 if it is TAEHV's, lighttaew2_1 if"):
        load_tiny(path)


def test_the_folder_does_not_tell_the_kind(tmp_path):
    folder = tmp_path / "lighttaew2_1"
    folder.mkdir()
    assert not load_tiny(write_tiny(folder / "taew2_1.pth", tiny_weights())).reads_raw


def test_missing_and_truncated_files(tmp_path, folder):
    path = tmp_path / "taew2_1.pth"
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_tiny(path)
    path.write_bytes((folder / "taew2_1.pth").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cut short"):
        load_tiny(path)


def test_files_are_told_apart(folder, tmp_path):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from tests.wan_folder import write_vae

    tiny = open_decoder(folder / "lighttaew2_1.pth", dtype=torch.float64)
    assert isinstance(tiny, TinyVae)
    assert (tiny.reads_raw, tiny.dtype) == (True, torch.float64)
    for path in (GOLDEN_VAE, write_vae(tmp_path, "diffusers")):
        assert isinstance(open_decoder(path), WanVae)


def test_what_is_no_decoder_is_told(tmp_path):
    pytest.importorskip("diffusers")
    path = tmp_path / "model.pth"
    torch.save({"blocks.0.attn.q.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match=r"is no Wan2\.1 VAE"):
        open_decoder(path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        open_decoder(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_decoder(tmp_path)


def test_a_light_vae_is_wans_own_with_a_quarter_of_the_channels(tmp_path):
    pytest.importorskip("diffusers")
    vae = open_decoder(write_pruned_wan(tmp_path / "lightvaew2_1.pth"))
    assert isinstance(vae, WanVae)
    config = vae.autoencoder.config
    assert (config.base_dim, config.decoder_base_dim) == (24, 24)
    video, state = vae.decode(torch.randn(1, 1, 16, 1, 2))
    assert video.shape == (1, 1, 3, 8, 16)
    assert vae.decode(torch.randn(1, 1, 16, 1, 2), state)[0].shape == (1, 4, 3, 8, 16)


def test_the_golden_vae_has_the_light_layout():
    weights = torch.load(GOLDEN_VAE, weights_only=True)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    assert shapes == pruned_wan_shapes(dim=16, pruning_rate=0.75)


def test_widths_that_no_single_number_tells_are_refused(tmp_path):
    pytest.importorskip("diffusers")
    # 9, 19 and 38 channels
    path = write_pruned_wan(tmp_path / "lightvae.pth", dim=16, pruning_rate=0.4)
    with pytest.raises(CheckpointError, match=r"does not fit the model: .* the model needs") as e:
        open_decoder(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (["Wan2.1_VAE.pth", "TAEW2_1.PTH"], "TAEW2_1.PTH"),
        (["LightTAEW2_1.safetensors", "notes.txt"], "LightTAEW2_1.safetensors"),
        (["lighttaew2_1.safetensors", "taew2_1.pth"], "taew2_1.pth"),
        (["taew2_1.pth", "taew2_1.safetensors"], "taew2_1.safetensors"),
    ],
    ids=str,
)
def test_find_tiny(tmp_path, there, found):
    for name in there:
        (tmp_path / name).touch()
    assert find_tiny(tmp_path) == tmp_path / found


@pytest.mark.parametrize("name", ["taew2_2.pth", "lightvaew2_1.pth", "taew2_1.pth.part"])
def test_no_tiny_vae_in_a_folder(tmp_path, name):
    (tmp_path / name).touch()
    # a folder of that name is no file
    (tmp_path / "taew2_1.pth").mkdir()
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=r"put taew2_1\.pth of the TAEHV.*--vae PATH$"):
            find_tiny(folder)


def test_it_needs_no_other_package(folder):
    code = (
        "import sys; from pathlib import Path;"
        "from afstream.families.wan.decoders import open_decoder;"
        f"open_decoder(Path({str(folder / 'taew2_1.pth')!r}));"
        "print({'diffusers', 'transformers', 'tokenizers'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
