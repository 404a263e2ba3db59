"""The engine beside a slow, plain stream: the same latents, whatever happens to the prompt."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.toy import SIZES, toy_model
from tests.kvcache.plain_memory import ANCHOR, CLEAR, RECACHE, RECAPTURE, ROLLING, Memory
from tests.kvcache.plain_stream import PlainStream
from torch import nn

from afstream.config import SamplerConfig, WindowLengths
from afstream.engine.rollout import Rollout
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.policy import MemoryPolicy
from afstream.model.dit import Backbone
from afstream.spec import StreamConfig
from afstream.stream import Stream

BACKBONE = replace(SIZES, dim=24, num_heads=2)
# timesteps 1000 and 937.5: exact in float32, in which the engine holds them
SAMPLER = SamplerConfig(steps=(1000, 750))
SIGMAS = (1.0, 0.9375)
PROMPTS = (
    "A red star drifts left.",
    "It turns right.",
    "A blue heart spins at night.",
    "A green heart bounces.",
)
TOLERANCE = 1e-9
WITH_SINK = (ANCHOR, RECACHE, RECAPTURE)
NAMES = (*WITH_SINK, ROLLING, CLEAR)


def policy_of(memory: Memory) -> MemoryPolicy:
    """The engine's policy of a memory; the only place that knows how one is built."""
    lengths = WindowLengths(
        window_frames=memory.W,
        sink_frames=memory.S,
        chunk_frames=memory.c,
        horizon_frames=memory.H,
    )
    hand_over = "hold" if memory.hold else "gap"
    return memory_policy(
        memory.name, lengths, junction=hand_over if memory.name == ANCHOR else None
    )


class NoPictures:
    """A decoder that paints nothing: here only latents count."""

    def decode(self, latents, state):
        return latents.new_zeros(1, 1, 3, 1, 1), state


@pytest.fixture(scope="module")
def model():
    toy = toy_model()
    assert isinstance(toy.text, nn.Module)
    backbone = Backbone(BACKBONE)
    for name, weight in backbone.named_parameters():
        # nothing may be so small that a wrong key is lost behind it
        nn.init.normal_(weight, mean=float("norm" in name and "weight" in name), std=0.2)
    return replace(
        toy,
        backbone=backbone.double().requires_grad_(False).eval(),
        text=toy.text.double(),
        vae=NoPictures(),
        sampler=SAMPLER,
    )


@dataclass
class Pair:
    """The same stream twice: the engine's, and the plain one with its blend on the way."""

    stream: Stream
    plain: PlainStream
    blend: list[torch.Tensor]

    @classmethod
    def start(cls, model, memory, backend):
        stream = Stream(model, StreamConfig(memory=policy_of(memory), seed=1, backend=backend))
        plain = PlainStream(
            model.backbone.state_dict(),
            memory,
            num_heads=BACKBONE.num_heads,
            freq_dim=BACKBONE.freq_dim,
            text_len=BACKBONE.text_len,
            sigmas=SIGMAS,
        )
        return cls(stream, plain, [])

    def cue(self, prompt, kind, blend_s=0.0):
        receipt = self.stream.cue(
            prompt, transition="cut" if kind == "cut" else "switch", blend_s=blend_s
        )
        embeds = self.stream.model.text.encode([prompt])[0]
        if kind == "cut":
            self.plain.cut(embeds)
            self.blend = []
            return
        # a blend starts at what is in force, and its last step is the prompt itself
        before, steps = self.plain.embeds, max(receipt.blend_chunks, 1)
        self.blend = [torch.lerp(before, embeds, done / steps) for done in range(1, steps + 1)]

    def play(self, count):
        """Chunks of both, and the largest difference beside the largest value."""
        for chunk in itertools.islice(self.stream.chunks(), count):
            if self.blend:
                self.plain.switch(self.blend.pop(0), anchor=not self.blend)
            own = self.plain.chunk(noise_of(self.stream, chunk.index))
            error = (chunk.latents[0] - own).abs().max() / own.abs().max()
            assert error < TOLERANCE, f"chunk {chunk.index} is off by {error:.1e}"

    def fork(self):
        return Pair(self.stream.fork(), self.plain.fork(), list(self.blend))


def noise_of(stream, chunk):
    """Noise [steps, c, C, h, w] of a chunk; that it depends on nothing else is tested elsewhere."""
    rollout: Rollout = stream._pipeline.rollout
    return rollout.noise(stream.state.rollout, seed=stream.state.seed, chunk=chunk)[:, 0]


@st.composite
def memories(draw, name):
    c = draw(st.sampled_from([1, 2, 3]))
    sink = c * draw(st.integers(0, 2)) if name in WITH_SINK else 0
    window = sink + c * draw(st.integers(1, 3))
    # as small as it may be, so that streams reach its end, or with room to spare
    horizon = window + c + sink + draw(st.integers(0, 4))
    return Memory(name=name, W=window, S=sink, c=c, H=horizon, hold=draw(st.booleans()))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["switch", "switch", "blend", "cut", "fork"]),
        st.sampled_from(PROMPTS),
        st.integers(1, 5),
    ),
    max_size=8,
)


def agree(model, memory, steps, backend=None):
    """Play the steps: what happens, to which prompt, and how many chunks come after it."""
    pairs = [Pair.start(model, memory, backend)]
    pairs[0].cue(PROMPTS[0], "cut")
    pairs[0].play(1)
    for kind, prompt, count in steps:
        pair = pairs[-1]
        if kind == "fork":
            # both go on as before, then the younger one with another prompt
            pairs.append(pair.fork())
            pair.play(1)
            pair = pairs[-1]
            pair.play(1)
        chunk_s = memory.c * 4 / 16
        if prompt:
            pair.cue(prompt, kind, blend_s=3 * chunk_s if kind == "blend" else 0.0)
        pair.play(count)
    for pair in pairs:
        pair.play(2)


# chunks between cues, long enough for the default window to be left behind
SCRIPTS = {
    "quick switches": [
        ("go on", "", 7),
        *[("switch", PROMPTS[k], n) for k, n in enumerate((1, 6, 4))],
    ],
    "far switches": [("go on", "", 6), ("switch", PROMPTS[1], 8), ("switch", PROMPTS[2], 6)],
    "blends": [("blend", PROMPTS[1], 5), ("blend", PROMPTS[2], 1), ("blend", PROMPTS[3], 9)],
    # the second switch comes while the window would still reach behind the cut
    "scenes": [("switch", PROMPTS[1], 5), ("cut", PROMPTS[2], 2), ("switch", PROMPTS[3], 5)],
    "forks": [("blend", PROMPTS[1], 2), ("fork", PROMPTS[2], 4), ("fork", PROMPTS[3], 5)],
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_whole_stories_at_the_default_sizes(model, script, name):
    agree(model, Memory(name=name, S=3 if name in WITH_SINK else 0), SCRIPTS[script])


@pytest.mark.parametrize("script", SCRIPTS)
def test_whole_stories_with_a_gap_between_two_junctions(model, script):
    agree(model, Memory(name=ANCHOR, hold=False), SCRIPTS[script], backend="reference")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12)
@given(data=st.data(), steps=STEPS)
def test_every_chunk_is_that_of_the_plain_stream(model, name, data, steps):
    agree(model, data.draw(memories(name)), steps)
