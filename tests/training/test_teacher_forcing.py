"""Teacher forcing must be the stream itself, laid out side by side."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from afstream.config import BackboneConfig, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.families.pocket.family import POCKET
from afstream.kvcache.memories import memory_policy
from afstream.training.pocket.data import Clips
from afstream.training.pocket.student_trainer import StudentConfig, StudentTrainer
from afstream.training.teacher_forcing import plan_clip
from afstream.training.trainer.checkpoints import CheckpointStore
from afstream.training.trainer.loop import train

FRAMES, CHUNK, BATCH = 33, 3, 2
PROMPTS = ("a red ball", "it is blue")
SIZES = BackboneConfig(
    dim=64, ffn_dim=96, freq_dim=32, text_dim=16, text_len=6, num_heads=2, num_layers=2, patch=2
)
QUIET = StudentConfig(
    past_noise=0.0,
    clip_batch=BATCH,
    side_batch=2,
    first_batch=2,
    steps=4,
    first_steps=2,
    own_from=3,
    own_share=1.0,
    switch_weight=2.0,
    lr=2e-3,
    hidden_lr=6e-3,
    warmup=1,
    decay=2,
    ema=0.9,
    seed=0,
)


def make_clips(switch_frame):
    return Clips(
        latents=torch.randn(BATCH, FRAMES, 16, 4, 4).half(),
        switch_frames=torch.full((BATCH,), switch_frame),
        captions=((PROMPTS,) * 4,) * BATCH,
    )


def make_trainer(clips):
    words = tuple(dict.fromkeys(" ".join(PROMPTS).split()))
    trainer = StudentTrainer(QUIET, SIZES, words, clips, clips)
    for weight in trainer.student.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.1)
    return trainer


@pytest.mark.parametrize("switch_frame", [0, 6, 9, 15, 21])
@torch.no_grad()
def test_every_chunk_sees_what_it_would_see_in_a_stream(switch_frame):
    trainer = make_trainer(make_clips(switch_frame))
    model = trainer.student.backbone
    clean = trainer._clips.latents.float()
    call = trainer._call(clean, switch_frame, [PROMPTS] * BATCH)
    sigma = trainer._sigma((1, FRAMES // CHUNK)).expand(BATCH, -1)
    random = trainer._random.get_state()
    flow, target = trainer._flow(clean, sigma, clean, call)
    trainer._random.set_state(random)
    noise = torch.randn(clean.shape, generator=trainer._random)
    assert_close(target, noise - clean)

    rollout = Rollout.of(model, memory_policy("anchor", POCKET.lengths), SamplerConfig())
    first, second = (trainer.student.read([prompt] * BATCH) for prompt in PROMPTS)
    state = rollout.start(first, clean[:, :CHUNK].shape)
    for index, block in enumerate(clean.split(CHUNK, dim=1)):
        if switch_frame and state.frame == switch_frame:
            rollout.switch(state, second)
        share = float(sigma[0, index])
        rows = slice(index * CHUNK, (index + 1) * CHUNK)
        noisy = (1 - share) * block + share * noise[:, rows]
        time = model.time_context(torch.full((1, 1), 1000 * share))
        streamed = model(noisy, time, state.text, state.cache.chunk_context(state.frame))
        assert_close(flow[:, rows], streamed, rtol=0, atol=5e-6)
        rollout.commit(state, block)


def test_only_blocks_that_a_noisy_chunk_depends_on_are_run():
    plan = plan_clip(memory_policy("anchor", POCKET.lengths), FRAMES, None)
    kinds = [block.kind for block in plan.blocks]
    assert kinds.count("noisy") == 11
    # nobody ever sees the last chunk's context
    assert kinds.count("context") == 10


def test_training_resumes_to_the_same_weights(tmp_path):
    clips, parts = make_clips(9), CheckpointStore(tmp_path / "parts")
    whole = make_trainer(clips)
    steps = []
    train(whole, 4, CheckpointStore(tmp_path / "whole"), lambda e: steps.append(e["step"]), every=1)
    assert steps == [1, 2, 3, 4]

    def kill_at_three(entry):
        if entry["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_trainer(clips), 4, parts, kill_at_three, every=1, save_every=2)
    resumed = make_trainer(clips)
    train(resumed, 4, parts, lambda _: None, every=1)
    assert resumed.step == 4
    for name, weight in whole.student.state_dict().items():
        assert_close(resumed.student.state_dict()[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("own", [False, True])
def test_what_is_drawn_goes_where_the_student_is(own):
    """The meta device refuses sums with tensors of any other."""
    trainer = make_trainer(make_clips(9))
    trainer.student.to("meta")
    loss, parts = trainer._clip_loss(own=own)
    assert loss.is_meta
    assert parts["switch"].is_meta
    assert trainer._first_loss(2).is_meta
