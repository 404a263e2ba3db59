"""A new family is one class and one row: chunks, strides and frame rates of any kind stream."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from tests.guide import worked_example
from torch import nn
from torch.testing import assert_close

from afstream.config import BackboneConfig, SamplerConfig, WindowLengths
from afstream.engine.schedule import shifted_sigma
from afstream.errors import CheckpointError, ConfigError
from afstream.families import registry
from afstream.families.base import ModelFamily, VideoModel
from afstream.families.opening import open_model
from afstream.families.random.model import ChannelsAsColours, HashedText, random_backbone
from afstream.families.registry import FAMILIES, family_of
from afstream.geometry import Geometry, VideoFormat
from afstream.model.dit import TimeContext
from afstream.model.layers import TextKeys
from afstream.spec import ModelSpec, StreamConfig
from afstream.stream import Stream
from afstream.timeline.cue import Transition
from afstream_cli.app import main

STAR, TURN, HEART = "a red star", "it turns", "a blue heart"


def test_the_worked_example_streams_by_its_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(registry, "FAMILIES", dict(FAMILIES))
    worked_example("A new model family", FAMILIES=registry.FAMILIES)
    stream = Stream.open(ModelSpec(name="noisy", device="cpu"), seed=1)
    stream.cue(STAR)
    shapes = [chunk.frames.shape for chunk in itertools.islice(stream.chunks(), 3)]
    assert shapes == [(1, 64, 96, 3), (4, 64, 96, 3), (4, 64, 96, 3)]
    assert stream.next_s == pytest.approx(9 / 24)
    # the command line knows its chunks before anything is opened
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"0:00 {STAR}\n0:01 {TURN}\n", "utf-8")
    with pytest.raises(SystemExit):
        main(["generate", "--prompts", str(prompts), "--model", "noisy", "--dry-run", "--json"])
    planned = json.loads(capsys.readouterr().out)
    # chunk 0 is one video frame, each later one four: the first from 24 frames on is the seventh
    assert [cue["chunk"] for cue in planned["cues"]] == [0, 7]


class TinyFamily(ModelFamily):
    """Everything that a family must say, to be varied."""

    name = "tiny"
    given_as = "'tiny' (in tests)"
    any_size = True

    def __init__(self, video_format, patch, chunk_frames, sampler=None):
        self.format = video_format
        step = video_format.spatial_stride * patch
        self.geometry = Geometry(
            width_px=3 * step,
            height_px=2 * step,
            spatial_stride=video_format.spatial_stride,
            patch=patch,
        )
        self.lengths = WindowLengths(
            window_frames=3 * chunk_frames,
            sink_frames=chunk_frames,
            chunk_frames=chunk_frames,
            horizon_frames=5 * chunk_frames,
        )
        self.sampler = sampler or SamplerConfig(steps=(1000, 500))

    def names(self, spec):
        return spec.name == self.name

    def open(self, spec, where, prompts=()):
        config = BackboneConfig(
            dim=32,
            ffn_dim=48,
            freq_dim=16,
            text_dim=8,
            text_len=4,
            num_heads=2,
            num_layers=2,
            patch=self.geometry.patch,
        )
        return VideoModel(
            name=self.name,
            family=self,
            backbone=random_backbone(config, device=where.device, dtype=where.dtype),
            text=HashedText(config, where.device),
            vae=ChannelsAsColours(self.format),
            sampler=self.sampler,
        )


@pytest.fixture
def tiny(monkeypatch):
    def add(*args, **settings):
        family = TinyFamily(*args, **settings)
        monkeypatch.setitem(FAMILIES, family.name, family)
        return family

    return add


def open_stream(family, **settings):
    return Stream.open(ModelSpec(name=family.name, device="cpu"), **settings)


FORMATS = {
    "4x8x8 at 16 fps": VideoFormat(fps=16, temporal_stride=4, spatial_stride=8),
    "4x16x16 at 24 fps": VideoFormat(fps=24, temporal_stride=4, spatial_stride=16),
    "2x4x4 at 10 fps": VideoFormat(fps=10, temporal_stride=2, spatial_stride=4),
}


@pytest.mark.parametrize("chunk_frames", [1, 3, 8])
@pytest.mark.parametrize(("name", "patch"), list(zip(FORMATS, (2, 2, 1), strict=True)), ids=str)
def test_it_streams_through_a_switch_and_a_cut(tiny, name, patch, chunk_frames):
    video_format = FORMATS[name]
    family = tiny(video_format, patch, chunk_frames)
    stream = open_stream(family)
    assert stream.fps == video_format.fps
    changes: dict[int, tuple[str, Transition]] = {
        0: (STAR, "cut"),
        4: (TURN, "switch"),
        9: (HEART, "cut"),
    }
    begun, scene = 0.0, 0
    for index in range(13):
        if index in changes:
            prompt, transition = changes[index]
            stream.cue(prompt, transition=transition)
            scene = index if transition == "cut" else scene
        chunk = next(stream.chunks())
        # a scene's first latent frame is one video frame, every later one a stride of them
        short = video_format.temporal_stride - 1 if index == scene else 0
        count = chunk_frames * video_format.temporal_stride - short
        height, width = family.geometry.height_px, family.geometry.width_px
        assert chunk.frames.shape == (count, height, width, 3)
        assert chunk.latents.shape == (1, chunk_frames, 16, 2 * patch, 3 * patch)
        assert chunk.start_s == pytest.approx(begun / video_format.fps)
        assert torch.isfinite(chunk.latents).all()
        begun += count
    # four chunks of the last scene are behind: the sink, a local window of two, and the next
    cache = stream.state.rollout.cache
    seen = stream.policy.visible(cache.anchors, 4 * chunk_frames, chunk_frames)
    assert [one.frame // chunk_frames for one in seen] == [0, 3, 4]
    assert {one.frame for one in seen[:-1]} <= set(cache.slot_frames)
    # tri-region positions: the newest chunk ends at the horizon, counted in the family's frames
    assert [one.position // chunk_frames for one in seen] == [0, 3, 4]


def test_another_size_of_the_familys_own_strides(tiny):
    family = tiny(FORMATS["4x16x16 at 24 fps"], 2, 1)
    stream = open_stream(family, size=(64, 96))
    stream.cue(STAR)
    assert next(stream.chunks()).frames.shape == (1, 96, 64, 3)
    # 48 is a multiple of 16, which would do for a stride of 8
    with pytest.raises(ConfigError, match="width is 48 px; it must be a multiple of 32"):
        family.sized(48, 64)


def test_what_a_family_does_not_take_is_refused_before_it_is_opened(tiny):
    tiny(FORMATS["4x8x8 at 16 fps"], 2, 3)
    assert family_of(ModelSpec(name="tiny")) is FAMILIES["tiny"]
    with pytest.raises(ConfigError, match=r"'tiny' takes no LoRA; that needs a Wan2\.1 folder"):
        open_model(ModelSpec(name="tiny", loras=("style.pt",)))
    with pytest.raises(ConfigError, match=r"takes no offloaded layers; .* or random:wan-1\.3b"):
        open_model(ModelSpec(name="tiny", offload=1))
    with pytest.raises(CheckpointError, match=r"no model 'tinier'; give 'pocket' .*, or 'tiny'"):
        open_model(ModelSpec(name="tinier"))


class PlainBackbone(nn.Module):
    """Not one of ours: what a stream needs of a backbone, and a flow that can be foretold."""

    is_compiled = False
    is_offloaded = False

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.share = nn.Parameter(torch.tensor(0.5), requires_grad=False)
        self.timesteps = []

    @property
    def dtype(self):
        return self.share.dtype

    @property
    def device(self):
        return self.share.device

    def time_context(self, timestep):
        return TimeContext(timestep, timestep)

    def text_context(self, prompt_embeds):
        keys = prompt_embeds.unflatten(-1, (2, -1))
        return (TextKeys(keys, keys),)

    def forward(self, latents, time, text, window):
        self.timesteps.append(time.embedding.item())
        return self.share * latents + text[0].k.mean()

    def write_kv(self, latents, time, text, window):
        self.timesteps.append(time.embedding.item())


STEPS, FIRST_STEPS = (1000, 500), (1000, 750, 500, 250)


def denoised(noise, steps, shift, mean):
    """A chunk of a `PlainBackbone`, from the equations alone."""
    sigmas = [shifted_sigma(step / 1000, shift) for step in steps]
    clean = torch.zeros(())
    for sigma, added in zip(sigmas, noise, strict=True):
        noisy = (1 - sigma) * clean + sigma * added
        clean = noisy - sigma * (0.5 * noisy + mean)
    return clean


def test_a_plain_module_streams_and_a_scenes_first_chunk_has_its_own_steps(tiny):
    sampler = SamplerConfig(steps=STEPS, first_steps=FIRST_STEPS)
    tiny(FORMATS["4x8x8 at 16 fps"], 2, 1, sampler)
    made = open_model(ModelSpec(name="tiny", device="cpu"))
    backbone = PlainBackbone(made.backbone.config)
    stream = Stream(replace(made, backbone=backbone), StreamConfig(seed=3))
    assert not stream.compiled
    changes: dict[int, tuple[str, Transition]] = {
        0: (STAR, "cut"),
        2: (TURN, "switch"),
        4: (HEART, "cut"),
    }
    prompt = ""
    backbone.timesteps.clear()
    for index in range(6):
        if index in changes:
            prompt, transition = changes[index]
            stream.cue(prompt, transition=transition)
        latents = next(stream.chunks()).latents
        steps = FIRST_STEPS if index in (0, 4) else STEPS
        sigmas = [shifted_sigma(step / 1000, sampler.shift) for step in steps]
        # a switch passes the window through once more before the chunk
        seen = [0.0] * (index == 2) + [1000 * sigma for sigma in sigmas] + [0.0]
        assert backbone.timesteps == pytest.approx(seen)
        backbone.timesteps.clear()
        state = stream.state.rollout
        assert state is not None
        noise = stream._pipeline.rollout.noise(
            replace(state, frame=0 if index in (0, 4) else 1),
            seed=3,
            chunk=index,
        )
        assert len(noise) == len(steps)
        mean = made.text.encode([prompt]).mean()
        assert_close(latents, denoised(noise, steps, sampler.shift, mean))


def test_the_memory_of_a_plain_module_is_not_made_up(tiny, monkeypatch):
    family = tiny(FORMATS["4x8x8 at 16 fps"], 2, 1)
    opened = family.open

    def open_plain(*args, **settings):
        made = opened(*args, **settings)
        return replace(made, backbone=PlainBackbone(made.backbone.config))

    monkeypatch.setattr(family, "open", open_plain)
    with pytest.raises(ConfigError, match=r"of a PlainBackbone cannot be counted.*leave --gpu-mem"):
        Stream.open("tiny", gpu_memory=2**30)
    assert Stream.open("tiny").estimate is None


def test_denoise_steps_of_the_first_chunk_must_go_down_too():
    with pytest.raises(ConfigError, match=r"steps are \(250, 500\); they must go down"):
        SamplerConfig(first_steps=(250, 500))
    assert SamplerConfig().steps_at(0) == SamplerConfig().steps
