"""The retention stage learns from the memory that a stream has, and falls to what a guide says."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from afstream.config import BackboneConfig, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.errors import ConfigError
from afstream.families.pocket.captions import parse, scene_of
from afstream.families.pocket.family import POCKET
from afstream.families.pocket.vocabulary import TEXT_LEN, vocabulary
from afstream.kvcache.memories import MEMORIES, memory_policy
from afstream.training.pocket.data import Clips, full_prompt, prompt_pair
from afstream.training.pocket.retention_trainer import (
    RetentionConfig,
    RetentionTrainer,
    reworded,
)
from afstream.training.pocket.student import Student
from afstream.training.trainer.checkpoints import CheckpointStore
from afstream.training.trainer.loop import train

FRAMES, CHUNK = 27, 3
PAIRS = tuple(prompt_pair(11, number) for number in range(4))
SIZES = BackboneConfig(
    dim=64,
    ffn_dim=96,
    freq_dim=32,
    text_dim=16,
    text_len=TEXT_LEN,
    num_heads=2,
    num_layers=2,
    patch=2,
)
CONFIG = RetentionConfig(
    begins_with="student",
    target="guide",
    batch=2,
    whole_batch=2,
    whole_share=0.25,
    silent_share=0.75,
    own_share=0.5,
    past_noise=0.1,
    memories=("anchor", "recapture"),
    steps=6,
    lr=1e-3,
    hidden_lr=3e-3,
    warmup=1,
    decay=2,
    ema=0.9,
    seed=3,
)


def make_clips(*switch_frames):
    torch.manual_seed(5)
    return Clips(
        latents=torch.randn(len(switch_frames), FRAMES, 16, 4, 4).half(),
        switch_frames=torch.tensor(switch_frames),
        captions=tuple((PAIRS[row % len(PAIRS)],) for row in range(len(switch_frames))),
    )


def make_trainer(clips, **changes):
    torch.manual_seed(1)
    student = Student.fresh(SIZES, vocabulary())
    for weight in student.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.1)
    return RetentionTrainer(CONFIG.model_copy(update=changes), student, clips)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("switch", [3, 9, 18])
@torch.no_grad()
def test_the_chunks_behind_a_switch_see_what_they_would_see_in_a_stream(memory, switch):
    trainer = make_trainer(make_clips(switch, switch), memories=(memory,))
    lesson = trainer.lesson(whole=False)
    assert lesson.learned == (switch, switch + CHUNK, switch + 2 * CHUNK)

    def plan(policy):
        clip = lesson.clean.shape[1:], switch, lesson.read
        return trainer._calls.plan(policy, *clip, learned=lesson.learned)

    # other memories were drawn before
    for name in MEMORIES:
        plan(memory_policy(name, POCKET.lengths))
    call = plan(lesson.policy)
    size = 2, len(lesson.learned) * CHUNK, *lesson.clean.shape[2:]
    noisy, sigma = torch.randn(size), torch.tensor([[0.9, 0.8, 0.6]]).expand(2, -1)
    flow = trainer._calls.flow(call, lesson.clean, noisy, sigma)

    model = trainer.student.backbone
    rollout = Rollout.of(model, memory_policy(memory, POCKET.lengths), SamplerConfig())
    first, second = (trainer.student.read(words) for words in zip(*lesson.read, strict=True))
    state = rollout.start(first, lesson.clean[:, :CHUNK].shape)
    for block in lesson.clean.split(CHUNK, dim=1):
        if state.frame == switch:
            rollout.switch(state, second)
        if state.frame in lesson.learned:
            index = lesson.learned.index(state.frame)
            rows = slice(index * CHUNK, (index + 1) * CHUNK)
            time = model.time_context(torch.full((1, 1), 1000 * float(sigma[0, index])))
            context = state.cache.chunk_context(state.frame)
            streamed = model(noisy[:, rows], time, state.text, context)
            assert_close(flow[:, rows], streamed, rtol=0, atol=5e-6)
        rollout.commit(state, block)


@torch.no_grad()
def test_the_own_past_is_what_the_students_stream_makes_behind_the_switch():
    trainer = make_trainer(make_clips(9, 9), past_noise=0.0)
    lesson = trainer.lesson(whole=False)
    random = trainer._random.get_state()
    past = trainer.own_past(lesson)
    untouched = [*range(9), *range(15, FRAMES)]
    assert torch.equal(past[:, untouched], lesson.clean[:, untouched])

    trainer._random.set_state(random)
    trainer._roughen(lesson.clean)
    rollout = Rollout.of(trainer.student.backbone, lesson.policy, SamplerConfig())
    first, second = (trainer.student.read(words) for words in zip(*lesson.read, strict=True))
    state = rollout.start(first, lesson.clean[:, :CHUNK].shape)
    for at in range(0, 15, CHUNK):
        if at == 9:
            rollout.switch(state, second)
        block = lesson.clean[:, at : at + CHUNK]
        if at >= 9:
            steps = len(SamplerConfig().steps)
            block = rollout.denoise(state, trainer._randn(torch.Size([steps, *state.shape])))
            assert_close(past[:, at : at + CHUNK], block, rtol=0, atol=5e-6)
        rollout.commit(state, block)


@torch.no_grad()
def test_the_guide_knows_nothing_more_where_captions_are_full():
    trainer = make_trainer(make_clips(9, 9), silent_share=1.0)
    whole, silent = trainer.lesson(whole=True), trainer.lesson(whole=False)
    assert whole.learned == tuple(range(0, FRAMES, CHUNK))
    assert whole.read == whole.full
    assert float(trainer.loss(whole, whole.clean)) < 1e-12
    assert all(read != full for read, full in zip(silent.read, silent.full, strict=True))
    assert float(trainer.loss(silent, silent.clean)) > 1e-4


@pytest.mark.parametrize("target", ["guide", "truth"])
def test_the_loss_falls(target):
    """Clips that are learned by heart: the same lesson, with the same noise, before and after."""
    changes = {"target": target, "silent_share": 1.0, "whole_share": 0.0, "steps": 40}
    trainer = make_trainer(make_clips(9, 9, 9, 9), **changes, decay=10)
    held = make_trainer(make_clips(9, 9, 9, 9), **changes, decay=10)
    lesson = held.lesson(whole=False)

    @torch.no_grad()
    def loss():
        held._random.manual_seed(0)
        held.student.load_state_dict(trainer.student.state_dict())
        return float(held.loss(lesson, lesson.clean))

    before = loss()
    for step in range(40):
        trainer.step = step
        assert {"norm"} < trainer.advance().keys()
    assert loss() < 0.8 * before


def test_training_resumes_to_the_same_weights(tmp_path):
    clips, parts = make_clips(9, 12, 0, 9), CheckpointStore(tmp_path / "parts")
    whole = make_trainer(clips)
    train(whole, 6, CheckpointStore(tmp_path / "whole"), lambda _: None)

    def kill_at_five(entry):
        if entry["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_trainer(clips), 6, parts, kill_at_five, every=1, save_every=2)
    resumed = make_trainer(clips)
    train(resumed, 6, parts, lambda _: None)
    for mine, theirs in (
        (resumed.student.state_dict(), whole.student.state_dict()),
        (resumed.ema.weights, whole.ema.weights),
    ):
        for name, weight in theirs.items():
            assert torch.equal(mine[name], weight), name


@torch.no_grad()
def test_what_is_drawn_goes_where_the_student_is():
    """The meta device refuses sums with tensors of any other."""
    trainer = make_trainer(make_clips(9, 9))
    trainer.student.to("meta")
    trainer.guide.to("meta")
    trainer._calls._plans.clear()
    for whole in (True, False):
        lesson = trainer.lesson(whole=whole)
        assert trainer.loss(lesson, lesson.clean).is_meta
    assert trainer.own_past(lesson).is_meta


def test_clips_without_a_switch_teach_nothing():
    with pytest.raises(ConfigError, match=r"no clip has a switch; set clips.switch_frames"):
        make_trainer(make_clips(0, 0))


def test_rewording_keeps_the_scenes_and_leaves_out_only_what_stays():
    left_out = 0
    for number in range(300):
        pair = prompt_pair(2, number)
        before = scene_of(pair[0])
        after = parse(pair[1]).over(before)
        (first, second), (same, full) = reworded(pair, np.random.default_rng(number), 1.0)
        assert first == same
        assert scene_of(first) == before
        assert parse(second).over(before) == after
        assert scene_of(full) == after
        told = parse(second)
        names = ("shape", "colour", "motion", "background")
        left_out += any(getattr(told, name) is None for name in names)
    # where a companion alone is left out, the oracle's four are all told
    assert left_out > 280


def test_full_prompts_tell_the_same_scene():
    for number in range(300):
        first, second = prompt_pair(4, number)
        assert scene_of(full_prompt(4, number)) == parse(second).over(scene_of(first))


def test_a_scene_needs_a_full_caption():
    with pytest.raises(ValueError, match="leaves something out"):
        scene_of("It turns blue.")
