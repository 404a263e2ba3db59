"""Long rollouts are the stream itself, and their gradients those of plain autograd."""

import itertools
from dataclasses import replace

import pytest
import torch
from tests.training.tiny_run import LATENT, PLAN, SIZES, DrawnPrompts, make_backbone
from torch.testing import assert_close

from afstream.config import SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.engine.schedule import clean_from_flow
from afstream.families.opening import open_model
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.spec import ModelSpec, StreamConfig
from afstream.stream import Stream
from afstream.training.dmd.losses import dmd_loss
from afstream.training.dmd.sequences import LongSequence, WindowPlan, replay

FIRST, SECOND = "A red star drifts left over a meadow.", "It turns blue."
ROWS, CHUNK = 2, 3
SAMPLER = SamplerConfig(steps=(1000, 500))
POLICY = memory_policy("anchor", replace(LENGTHS, window_frames=6))


def test_a_rollout_without_gradients_is_a_stream_bit_for_bit():
    model, policy, seed = open_model(ModelSpec(device="cpu")), memory_policy("anchor", LENGTHS), 7
    plan = WindowPlan(horizon_frames=9, overlap_frames=3, max_frames=15)
    stream = Stream(model, StreamConfig(memory=policy, seed=seed))
    stream.cue(FIRST)
    chunks = stream.chunks()
    streamed = [chunk.latents for chunk in itertools.islice(chunks, 3)]
    stream.cue(SECOND)
    streamed += [chunk.latents for chunk in itertools.islice(chunks, 2)]

    rollout = Rollout.of(model.backbone, policy, model.sampler)
    embeds = model.text.encode([FIRST]), model.text.encode([SECOND])
    size = model.geometry.latent_height, model.geometry.latent_width
    sequence = LongSequence(
        rollout, plan, embeds, switch_frame=9, shape=(1, CHUNK, LATENT[0], *size)
    )

    def noise(chunk):
        return rollout.noise(sequence.state, seed=seed, chunk=chunk)

    windows = []
    while not sequence.finished:
        last = len(model.sampler.steps) - 1
        windows.append(sequence.advance(rollout, noise, last, keep=False))
    rolled = torch.cat([window.latents[:, window.counts] for window in windows], dim=1)
    assert rolled.shape[1] == plan.last_frame == 15
    assert torch.equal(rolled, torch.cat(streamed, dim=1))


def drawn_embeds():
    first, second = DrawnPrompts().pair(range(ROWS))
    return first.double(), second.double()


@pytest.fixture(params=[False, True], ids=["plain", "recomputed"])
def student(request):
    student = make_backbone(1).double()
    if request.param:
        student.recompute_layers()
    return student


def test_teacher_and_critic_read_what_they_are_told_behind_the_switch():
    rollout = Rollout.of(make_backbone(1), POLICY, SAMPLER)
    first, second = (embeds.float() for embeds in drawn_embeds())
    drawn = torch.randn(9, len(SAMPLER.steps), ROWS, CHUNK, *LATENT)
    for told in (None, torch.randn_like(second)):
        sequence = LongSequence(
            *(rollout, PLAN, (first, second)),
            switch_frame=PLAN.boundaries[0],
            shape=(ROWS, CHUNK, *LATENT),
            told=told,
        )
        before, after = (
            sequence.advance(rollout, drawn.__getitem__, 0, keep=False) for _ in range(2)
        )
        assert before.embeds is before.told is first
        assert after.embeds is second
        assert after.told is (second if told is None else told)


@pytest.mark.parametrize("switch_frame", [0, 6])
@pytest.mark.parametrize("exit_step", [0, 1])
def test_gradients_of_a_replay_are_those_of_autograd(student, switch_frame, exit_step):
    """Both windows of a sequence, the second one after a switch."""
    rollout = Rollout.of(student, POLICY, SAMPLER)
    embeds = drawn_embeds()
    drawn = torch.randn(3, len(SAMPLER.steps), ROWS, CHUNK, *LATENT, dtype=torch.float64)
    sequence = LongSequence(
        rollout, PLAN, embeds, switch_frame=switch_frame, shape=(ROWS, CHUNK, *LATENT)
    )
    state = rollout.start(rollout.model.text_context(embeds[0]), (ROWS, CHUNK, *LATENT))
    overlap = last = torch.empty(ROWS, 0, *LATENT, dtype=torch.float64)
    for size in (PLAN.horizon_frames, PLAN.new_frames):
        window = sequence.advance(rollout, drawn.__getitem__, exit_step, keep=True)
        direction = torch.randn_like(window.latents)
        leaf = window.latents.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(dmd_loss(leaf, direction, window.counts), leaf)
        replay(rollout, window, gradient)
        found = take_gradients(student)

        made = []
        in_force = embeds[1 if switch_frame and state.frame >= switch_frame else 0]
        if switch_frame and state.frame == switch_frame:
            rollout.switch(state, student.text_context(in_force))
        for chunk in range(state.frame // CHUNK, (state.frame + size) // CHUNK):
            # a memory of its own for each chunk, so that autograd can hold all of them
            seen = state.fork()
            noisy, flow = rollout.predict(seen, drawn[chunk][: exit_step + 1])
            text = student.text_context(in_force)
            made.append(rollout.step(seen, noisy, exit_step, text))
            clean = clean_from_flow(noisy, flow, rollout.schedule.sigmas[exit_step])
            assert_close(made[-1].detach(), clean)
            rollout.commit(state, clean)
            last = clean
        latents = torch.cat([overlap, *made], dim=1)
        assert_close(latents.detach(), window.latents)
        dmd_loss(latents, direction, window.counts).backward()
        overlap = last
        for name, expected in take_gradients(student).items():
            error = (found[name] - expected).abs().max()
            assert error <= 1e-5 * expected.abs().max(), name


def take_gradients(model):
    found = {name: it.grad for name, it in model.named_parameters() if it.grad is not None}
    # the last layer's cross-attention and all before it take part
    assert len(found) == len(list(model.parameters()))
    assert SIZES.num_layers == len(model.blocks)
    model.zero_grad(set_to_none=True)
    return found


def test_a_window_without_its_memory_cannot_be_replayed(student):
    rollout = Rollout.of(student, POLICY, SAMPLER)
    embeds = drawn_embeds()
    sequence = LongSequence(rollout, PLAN, embeds, switch_frame=0, shape=(ROWS, CHUNK, *LATENT))
    drawn = torch.randn(2, len(SAMPLER.steps), ROWS, CHUNK, *LATENT, dtype=torch.float64)
    window = sequence.advance(rollout, drawn.__getitem__, 0, keep=False)
    with pytest.raises(ValueError, match="keep=True"):
        replay(rollout, window, torch.zeros_like(window.latents))


class NumberingCodec:
    """Shows each latent frame by pictures of its number: four, but one of the very first."""

    def __init__(self):
        self.encoded = []

    def decode(self, latents, state):
        start = state or 0
        numbers = [at for at in range(start, start + CHUNK) for _ in range(4 if at else 1)]
        pictures = torch.tensor(numbers, dtype=torch.float64)[None, :, None, None, None]
        return pictures.expand(len(latents), -1, 3, 8, 8), start + CHUNK

    def encode(self, frames):
        self.encoded.append(frames[0, :, 0, 0, 0].tolist())
        return torch.full((len(frames), 1, *LATENT), -1.0), None


@pytest.mark.parametrize(("overlap", "shown"), [(3, [6, 12]), (6, [3, 6])])
def test_the_teacher_is_shown_the_overlaps_first_frame(overlap, shown):
    student, codec = make_backbone(1).double(), NumberingCodec()
    rollout = Rollout.of(student, POLICY, SAMPLER)
    plan = WindowPlan(horizon_frames=9, overlap_frames=overlap, max_frames=15)
    shape = (ROWS, CHUNK, *LATENT)
    sequence = LongSequence(rollout, plan, drawn_embeds(), switch_frame=0, shape=shape, codec=codec)
    drawn = torch.randn(1, ROWS, CHUNK, *LATENT, dtype=torch.float64)
    windows = [sequence.advance(rollout, lambda _: drawn, 0, keep=False) for _ in range(2)]
    assert codec.encoded == [[frame] for frame in shown]
    assert (windows[1].latents[:, 0] == -1).all()
    assert windows[1].counts.tolist() == [False] * overlap + [True] * (9 - overlap)
