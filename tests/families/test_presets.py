"""Presets: the families' own settings, that they stream, and whose files are recognised."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.engine.toy import toy_model

from afstream import stream as engine
from afstream.engine.schedule import Schedule
from afstream.errors import ConfigError
from afstream.families.presets import PRESETS, preset, recognise
from afstream.kvcache.policy import Anchors
from afstream.kvcache.positions import ABSOLUTE
from afstream.spec import StreamConfig
from afstream.stream import Stream

GUIDE = Path(__file__).parents[2] / "docs" / "models.md"
STAR, TURN = "A red star drifts left.", "It turns right."

# (first frame, position) of all that a chunk at frame 60 sees, with a junction at 30 if any
SEEN_AT_60 = {
    "self-forcing": [(frame, frame) for frame in range(42, 61, 3)],
    "causal-forcing": [(frame, frame) for frame in range(42, 61, 3)],
    "longlive": [(0, 0), (54, 54), (57, 57), (60, 60)],
    "longlive-infinity": [(0, 0), (54, 3), (57, 6), (60, 9)],
    "memflow": [(0, 0), (54, 54), (57, 57), (60, 60)],
    "anchor-forcing": [(0, 0), (30, 6), (54, 12), (57, 15), (60, 18)],
    "krea-realtime": [(57, 0), (60, 3)],
}
FOUR_STEPS = (1000, 937.5, 2500 / 3, 625)


@pytest.fixture(scope="module")
def model():
    return toy_model()


def test_a_hand_over_can_be_chosen_for_a_preset(model, monkeypatch):
    """Anchor Forcing's own is `gap`: with `hold`, the junction before last is still seen."""
    monkeypatch.setattr(engine, "open_model", lambda *_, **__: model)

    def play(**settings):
        stream = Stream.open(seed=2, **settings)
        latents = []
        for prompt, count in ((STAR, 6), (TURN, 7), (STAR, 3)):
            stream.cue(prompt)
            latents += [chunk.latents for chunk in itertools.islice(stream.chunks(), count)]
        return torch.cat(latents)

    own, hold = play(preset="anchor-forcing"), play(preset="anchor-forcing", junction="hold")
    assert torch.equal(own, play(memory="anchor", junction="gap"))
    assert torch.equal(hold, play(memory="anchor", junction="hold"))
    assert not torch.equal(own, hold)
    with pytest.raises(ConfigError, match="keeps no junction"):
        play(preset="longlive", junction="hold")


def held(cache):
    """Keys and values of every chunk that is held, by its first frame."""
    return {
        owner: (cache.pool.keys[:, :, slot].clone(), cache.pool.values[:, :, slot].clone())
        for slot, owner in enumerate(cache.slot_frames)
        if owner >= 0
    }


def test_an_unknown_preset_names_the_known_ones():
    assert preset("longlive") is PRESETS["longlive"]
    with pytest.raises(ConfigError, match=r"'longlife'; choose one of self-forcing, .*memflow"):
        preset("longlife")


@pytest.mark.parametrize("name", PRESETS)
def test_a_chunk_sees_what_the_public_script_shows_it(name):
    policy = PRESETS[name].policy
    seen = policy.visible(Anchors(junction=30), 60, policy.lengths.chunk_frames)
    assert [tuple(chunk) for chunk in seen] == SEEN_AT_60[name]


@pytest.mark.parametrize("name", PRESETS)
def test_the_sampler_is_the_public_one(name):
    timesteps = Schedule.of(PRESETS[name].sampler).timesteps
    if name == "krea-realtime":
        # 5 s / (1 + 4 s) for s = 1, .8, .6, .4, .2
        expected = tuple(5000 * s / (1 + 4 * s) for s in (1, 0.8, 0.6, 0.4, 0.2))
    else:
        expected = FOUR_STEPS
    assert timesteps == pytest.approx(expected)


@pytest.mark.parametrize("name", PRESETS)
def test_it_streams_past_its_window_and_through_a_switch(model, name):
    chosen = PRESETS[name]
    policy = chosen.policy
    stream = Stream(replace(model, sampler=chosen.sampler), StreamConfig(memory=policy))
    before_switch = policy.lengths.window_frames // policy.lengths.chunk_frames + 2
    stream.cue(STAR)
    chunks = list(itertools.islice(stream.chunks(), before_switch))
    memory = stream.state.rollout.cache
    before = held(memory)
    receipt = stream.cue(TURN)
    chunks.append(next(stream.chunks()))
    after = held(memory)
    assert receipt.chunk == before_switch
    # the sink is kept, and what a re-cache reaches is renewed
    kept = {frame for frame in before.keys() & after.keys() if frame < policy.lengths.sink_frames}
    switch_frame = before_switch * policy.lengths.chunk_frames
    reached = range(switch_frame - policy.lengths.local_frames, switch_frame)
    local = {frame for frame in before.keys() & after.keys() if frame in reached}
    assert len(local) >= 1
    assert len(kept) == policy.lengths.sink_frames // policy.lengths.chunk_frames
    for frame in kept:
        assert all(map(torch.equal, before[frame], after[frame]))
    for frame in local:
        same = torch.equal(before[frame][1], after[frame][1])
        assert same == (policy.name == "rolling"), frame
    chunks += itertools.islice(stream.chunks(), before_switch)
    assert [len(chunk.frames) for chunk in chunks] == [9] + [12] * (2 * before_switch)
    assert all(torch.isfinite(chunk.latents).all() for chunk in chunks)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["checkpoints/self_forcing_dmd.pt"], "self-forcing"),
        (["self_forcing_dmd.pt"], "self-forcing"),
        (["/models/self_forcing_sid.pt"], "self-forcing"),
        (["self_forcing_sid_v2.pt"], "self-forcing"),
        (["self_forcing_gan.pt"], "self-forcing"),
        (["checkpoints/chunkwise/causal_forcing.pt"], "causal-forcing"),
        (
            ["models--zhuhz22--Causal-Forcing/snapshots/634d/chunkwise/causal_forcing.pt"],
            "causal-forcing",
        ),
        (["longlive_models/models/longlive_base.pt", "longlive_models/models/lora.pt"], "longlive"),
        (["LongLive-1.3B/models/longlive_base.pt"], "longlive"),
        (["MemFlow/base.pt", "MemFlow/lora.pt"], "memflow"),
        (
            [
                "models--KlingTeam--MemFlow/snapshots/7ed5/base.pt",
                "models--KlingTeam--MemFlow/snapshots/7ed5/lora.pt",
            ],
            "memflow",
        ),
        (["AnchorForcing/base.pt", "AnchorForcing/final.pt"], "anchor-forcing"),
        (["Anchor-Forcing/base.pt", "Anchor-Forcing/final.pt"], "anchor-forcing"),
        (["krea-realtime-video-14b.safetensors"], "krea-realtime"),
    ],
    ids=str,
)
def test_files_as_published_are_recognised(files, name):
    assert recognise(files) == name
    assert name in PRESETS


@pytest.mark.parametrize(
    "files",
    [
        [],
        ["student.pt"],
        ["my_self_forcing_dmd.pt"],
        ["self_forcing_dmd.safetensors"],
        ["self_forcing_10s.pt"],
        ["checkpoints/ode_init.pt"],
        ["causal_forcing.pt"],
        ["framewise/causal_forcing.pt"],
        ["chunkwise/longvideo.pt"],
        ["chunkwise/ar_diffusion.pt"],
        ["causal-forcing++/framewise-2step.pt"],
        ["checkpoints/rolling_forcing_dmd.pt"],
        ["ckpt/base.pt", "ckpt/final.pt"],
        ["checkpoints/base.pt", "checkpoints/lora.pt"],
        ["MemFlow/base.pt"],
        ["MemFlow/base.pt", "mine/lora.pt"],
        ["MemFlow/runs/base.pt", "MemFlow/runs/lora.pt"],
        ["AnchorForcing/base.pt", "AnchorForcing/lora.pt"],
        ["longlive_base.pt", "final.pt"],
        ["longlive_base.pt", "lora.pt", "style.safetensors"],
        ["self_forcing_dmd.pt", "lora.pt"],
        ["lora.pt"],
        ["LongLive-2.0-5B/model_bf16.pt"],
        ["Self-Forcing/model.pt"],
    ],
    ids=str,
)
def test_other_files_are_not(files):
    assert recognise(files) is None


def test_what_is_known_of_the_contents_can_speak_against_the_names():
    student = ["self_forcing_dmd.pt"]
    assert recognise(student, entries=["generator", "generator_ema"]) == "self-forcing"
    assert recognise(student, entries=["generator_ema", "step"]) == "self-forcing"
    assert recognise(student, entries=["blocks.0.modulation"]) is None
    assert recognise(student, entries=["generator_lora"]) is None
    assert recognise(["krea-realtime-video-14b.safetensors"], entries=["model.head.bias"])
    longlive = ["longlive_base.pt", "lora.pt"]
    assert recognise(longlive, entries=["generator"], lora_ranks=[256]) == "longlive"
    assert recognise(longlive, lora_ranks=[64]) is None


def settings_of(chosen):
    """A preset's settings as the guide writes them."""
    policy, sampler = chosen.policy, chosen.sampler
    bounded = f"bounded, horizon {policy.lengths.horizon_frames}"
    yield f"| window | {policy.lengths.window_frames} latent frames |"
    yield f"| sink | {policy.lengths.sink_frames or 'none'} |"
    yield f"| chunk | {policy.lengths.chunk_frames} |"
    yield f"| positions | {'absolute' if policy.positions is ABSOLUTE else bounded} |"
    yield f"| memory | {policy.name} |"
    yield f"| junction | {policy.settings.get('junction', 'none')} |"
    yield f"| shift | {sampler.shift:g} |"
    yield f"| steps | {', '.join(map(str, sampler.steps))} |"


@pytest.mark.parametrize("name", PRESETS)
def test_the_guide_shows_the_settings_of_a_preset(name):
    """The table that begins with a preset's name holds its settings, in this order."""
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    start = lines.index(f"| preset | `{name}` |")
    expected = list(settings_of(PRESETS[name]))
    # the line between is the table's rule
    assert lines[start + 2 : start + 2 + len(expected)] == expected


# the part of the student's file that each public script takes
ENTRIES = {
    "self-forcing": "generator_ema",
    "causal-forcing": "generator",
    "longlive": "generator",
    "memflow": "generator",
    "anchor-forcing": "generator",
}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_guide_says_which_weights_the_public_script_takes(name):
    text = GUIDE.read_text(encoding="utf-8")
    (section,) = (part for part in text.split("\n## ") if f"| preset | `{name}` |" in part)
    assert f"\n- It takes `{ENTRIES[name]}`" in section
