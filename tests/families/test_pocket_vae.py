"""The pocket codec: chunks equal the whole, states can be kept, nothing leaks from the future."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from afstream.errors import ConfigError
from afstream.families.pocket.vae import CodecState, PocketVae, VaeConfig, load_vae, save_vae
from afstream.training.pocket.vae_trainer import VaeTrainer, VaeTrainingConfig
from afstream.training.recipes.reading import load_recipe
from afstream.training.trainer.checkpoints import CheckpointStore
from afstream.training.trainer.loop import train

TINY = VaeConfig(coarse=16, middle=8, fine=8, encoder_coarse=16, encoder_middle=8, encoder_fine=8)


def tiny_vae(seed: int = 0) -> PocketVae:
    """A small codec with random weights, ready to use."""
    torch.manual_seed(seed)
    return PocketVae(TINY).eval()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("size", [(64, 64), (48, 80)], ids=["square", "wide"])
@pytest.mark.parametrize("splits", [(3, 3, 3), (1, 1, 7), (2, 4, 3)])
def test_chunked_equals_whole(size: tuple[int, int], splits: tuple[int, ...]):
    # in double precision, where only a real difference could show
    vae = tiny_vae().double()
    height, width = size
    latents = torch.randn(2, 9, 16, height // 8, width // 8, dtype=torch.float64)
    whole, _ = vae.decode(latents)
    assert whole.shape == (2, 33, 3, height, width)
    parts: list[torch.Tensor] = []
    state: CodecState | None = None
    for chunk in latents.split(splits, dim=1):
        frames, state = vae.decode(chunk, state)
        parts.append(frames)
    assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)

    again, _ = vae.encode(whole)
    halves: list[torch.Tensor] = []
    state = None
    for part in parts:
        encoded, state = vae.encode(part, state)
        halves.append(encoded)
    assert_close(torch.cat(halves, 1), again, rtol=0, atol=1e-12)


def test_a_kept_state_branches_and_is_never_changed():
    vae = tiny_vae()
    first, left, right = (torch.randn(1, 3, 16, 8, 8) for _ in range(3))
    _, state = vae.decode(first)
    kept = [past.clone() for past in state.past]
    to_left, _ = vae.decode(left, state)
    vae.decode(right, state)
    for past, copy in zip(state.past, kept, strict=True):
        assert_close(past, copy, rtol=0, atol=0)
    assert_close(vae.decode(left, state)[0], to_left, rtol=0, atol=0)


def test_later_frames_do_not_change_earlier_ones():
    vae = tiny_vae()
    latents = torch.randn(1, 6, 16, 8, 8)
    changed = latents.clone()
    changed[:, 4:] += 1
    one, other = vae.decode(latents)[0], vae.decode(changed)[0]
    assert_close(one[:, :13], other[:, :13], rtol=0, atol=1e-6)
    assert not torch.allclose(one[:, 13:], other[:, 13:])


def test_the_first_latent_stands_for_one_frame():
    vae = tiny_vae()
    latents, state = vae.encode(torch.zeros(1, 1, 3, 64, 64))
    assert latents.shape == (1, 1, 16, 8, 8)
    assert vae.decode(latents)[0].shape == (1, 1, 3, 64, 64)
    assert vae.encode(torch.zeros(1, 4, 3, 64, 64), state)[0].shape == (1, 1, 16, 8, 8)


def test_lengths_and_sizes_that_do_not_fit_are_refused():
    vae = tiny_vae()
    with pytest.raises(ValueError, match="12 video frames given; the codec takes 1"):
        vae.encode(torch.zeros(1, 12, 3, 64, 64))
    with pytest.raises(ValueError, match="multiples of 8"):
        vae.encode(torch.zeros(1, 9, 3, 60, 64))


def test_saved_weights_decode_alike(tmp_path: Path):
    vae = tiny_vae()
    vae.latent_mean.normal_()
    save_vae(vae, tmp_path / "vae.safetensors")
    loaded = load_vae(tmp_path / "vae.safetensors")
    assert loaded.config == vae.config
    latents = torch.randn(1, 2, 16, 8, 8)
    assert_close(loaded.decode(latents)[0], vae.decode(latents)[0], rtol=0, atol=1e-6)
    assert_close(loaded.latent_mean, vae.latent_mean, rtol=0, atol=0)


def test_the_default_codec_is_small_enough_to_ship():
    assert sum(weight.numel() for weight in PocketVae().parameters()) <= 1_000_000


CONFIG = VaeTrainingConfig(
    steps=4,
    batch=1,
    window_frames=5,
    learning_rate=5e-3,
    warmup_steps=2,
    weight_decay=1e-2,
    latent_noise=0.3,
    mse_weight=8.0,
    edge_weight=0.5,
    statistics_clips=2,
    seed=0,
)


def test_training_resumes_where_it_stopped(tmp_path: Path):
    lines: list[Mapping[str, float]] = []
    parts = CheckpointStore(tmp_path / "parts")

    class StoppedError(Exception):
        """Raised by the test in place of a kill."""

    def stop(line: Mapping[str, float]) -> None:
        if line["step"] == 3:
            raise StoppedError

    straight, killed, resumed = (VaeTrainer(CONFIG, TINY) for _ in range(3))
    with torch.enable_grad():
        train(straight, 4, CheckpointStore(tmp_path / "whole"), lines.append, every=1)
        with pytest.raises(StoppedError):
            train(killed, 4, parts, stop, every=1, save_every=2)
        train(resumed, 4, parts, lambda _: None, every=1)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    one, other = (trainer.finish().state_dict() for trainer in (straight, resumed))
    for name, value in one.items():
        assert_close(other[name], value, rtol=0, atol=1e-6)
    assert not torch.equal(one["latent_mean"], PocketVae(TINY).latent_mean)


def test_a_window_must_suit_the_codec():
    with pytest.raises(ConfigError, match="window_frames is 16"):
        load_recipe("pocket", ["vae.window_frames=16"])
