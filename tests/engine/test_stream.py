"""The stream: cues, receipts, scenes, memories, and what must stay constant."""

import itertools
import threading

import numpy as np
import pytest
import torch
from tests.engine.toy import toy_model

from afstream import stream as engine
from afstream.errors import AfstreamError, ConfigError, PromptError, StreamError
from afstream.kvcache.memories import MEMORIES
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec, StreamConfig
from afstream.stream import Stream
from afstream.timeline import Timeline

STAR, TURN, HEART = "A red star drifts left.", "It turns right.", "A blue heart spins at night."
TIMELINE = f"""
@seed 3
@duration 0:09
0:00            {STAR}
0:02            {TURN}
0:04 cut        {HEART}
0:06 blend=1.5s {STAR}
"""


@pytest.fixture(scope="module")
def model():
    return toy_model()


def make_stream(model, memory="anchor", **settings):
    return Stream(model, StreamConfig(memory=memory, **settings))


def take(stream, count):
    return list(itertools.islice(stream.chunks(), count))


def frames_of(chunks):
    return np.concatenate([chunk.frames for chunk in chunks])


def test_a_timeline_is_played_to_its_end(model):
    plan = Timeline.parse(TIMELINE).plan(make_stream(model).clock)
    chunks = list(make_stream(model).play(plan))
    assert [chunk.index for chunk in chunks] == list(range(plan.num_chunks))
    assert sum(len(chunk.frames) for chunk in chunks) == plan.num_video_frames
    applied = {receipt.prompt: receipt.chunk for c in chunks for receipt in c.receipts[:1]}
    planned = {cue.cue.prompt: cue.chunk for cue in plan.cues}
    assert applied == planned
    for cue in plan.cues:
        first = chunks[cue.chunk]
        assert first.start_s == cue.effective_s
        assert first.prompt == cue.cue.prompt
    assert next(len(chunk.frames) for chunk in chunks if chunk.prompt == HEART) == 9


def test_frames_are_pictures_and_timings_add_up(model):
    (chunk,) = list(Stream(model).play(Timeline.parse(f"@duration 0:00.5\n0:00 {STAR}")))
    assert chunk.frames.shape == (9, 16, 32, 3)
    assert chunk.frames.dtype == np.uint8
    assert chunk.latents.shape == (1, 3, 16, 2, 4)
    assert 0 < chunk.timing.model_ms <= chunk.timing.total_ms


def test_same_seed_gives_identical_frames_and_another_seed_others(model):
    runs = [
        list(make_stream(model, seed=seed).play(Timeline.parse(TIMELINE))) for seed in (5, 5, 6)
    ]
    first, again, other = map(frames_of, runs)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_live_cue_takes_effect_with_the_next_chunk(model):
    stream = make_stream(model)
    stream.cue(STAR)
    take(stream, 3)
    receipt = stream.cue(TURN)
    assert receipt.chunk is None
    chunk = next(stream.chunks())
    assert receipt.chunk == chunk.index == 3
    assert chunk.receipts == (receipt,)
    assert chunk.prompt == TURN
    assert receipt.switch_ms is not None
    assert receipt.switch_ms > 0


def test_live_cues_equal_the_same_cues_in_a_timeline(model):
    text = f"@duration [6c]\n0:00 {STAR}\n[2c] {TURN}\n[4c] blend=1.5s {HEART}"
    planned = list(make_stream(model).play(Timeline.parse(text)))
    stream = make_stream(model)
    live = []
    for index, prompt in enumerate([STAR, None, TURN, None, HEART, None]):
        if prompt:
            stream.cue(prompt, blend_s=1.5 if prompt == HEART else 0)
        live += take(stream, 1)
        assert live[-1].index == index
    assert np.array_equal(frames_of(planned), frames_of(live))


def test_of_two_cues_on_one_chunk_the_later_counts(model):
    stream = make_stream(model)
    receipts = [stream.cue(STAR), stream.cue(HEART)]
    (chunk,) = take(stream, 1)
    assert chunk.prompt == HEART
    assert [receipt.superseded for receipt in receipts] == [True, False]


def test_cues_may_come_from_another_thread(model):
    stream = make_stream(model)
    thread = threading.Thread(target=stream.cue, args=(STAR,))
    thread.start()
    thread.join()
    assert take(stream, 1)[0].prompt == STAR


def test_an_unknown_word_changes_nothing_and_names_what_is_known(model):
    stream = make_stream(model)
    stream.cue(STAR)
    with pytest.raises(PromptError, match=r"does not know 'strar'.*Did you mean star.*heart"):
        stream.cue("A red strar.")
    assert take(stream, 1)[0].prompt == STAR
    with pytest.raises(PromptError):
        # all prompts are checked before the first chunk
        stream.play(Timeline.parse(f"0:00 {STAR}\n0:05 A wombat."))


def test_a_stream_without_a_prompt_says_so(model):
    with pytest.raises(ConfigError, match=r"call cue\(prompt\) first"):
        next(make_stream(model).chunks())


@pytest.mark.parametrize("ahead", [False, True])
def test_a_stream_that_turns_to_nan_names_the_chunk_and_stops_before_it(ahead):
    model = toy_model()
    stream = make_stream(model, ahead=ahead)
    stream.cue(STAR)
    chunks = stream.chunks()
    made = [next(chunks) for _ in range(3)]
    # the one behind may be under way
    first_bad = 4 if ahead else 3
    toy = model.backbone
    assert isinstance(toy, Backbone)
    toy.patch_embedding.weight[0] = float("nan")
    if ahead:
        made.append(next(chunks))
    with pytest.raises(StreamError, match=f"chunk {first_bad}, at .* s, has values that are no"):
        next(chunks)
    assert all(chunk.latents.isfinite().all() for chunk in made)
    # it does not go on with what is wrong
    with pytest.raises(StreamError, match=f"chunk {first_bad},"):
        next(stream.chunks())


def test_a_cut_forgets_everything(model):
    """After a cut the video is that of a fresh stream at the same chunk."""
    stream = make_stream(model)
    stream.cue(STAR)
    take(stream, 4)
    stream.cue(HEART, transition="cut")
    after = take(stream, 6)
    fresh = make_stream(model)
    fresh.state.chunk = 4
    fresh.cue(HEART)
    assert np.array_equal(frames_of(after), frames_of(take(fresh, 6)))


def test_a_seed_in_a_cue_changes_the_noise_from_there_on(model):
    def run(seed):
        stream = make_stream(model)
        stream.cue(STAR)
        head = take(stream, 2)
        stream.cue(TURN, seed=seed)
        return frames_of(head), frames_of(take(stream, 2))

    (head, tail), (same_head, other_tail) = run(None), run(9)
    assert np.array_equal(head, same_head)
    assert not np.array_equal(tail, other_tail)


def test_no_two_chunks_of_any_seeds_begin_with_the_same_noise(model):
    stream = make_stream(model)
    stream.cue(STAR)
    take(stream, 1)
    first = {
        (seed, chunk): noise_of(stream, seed, chunk).flatten()[0].item()
        for seed in (0, 1, 11, 111, 2, 21)
        for chunk in range(25)
    }
    assert len(set(first.values())) == len(first)
    # and no denoise step adds the noise that another one added
    steps = noise_of(stream, 1, 2)
    assert len(set(steps.flatten(1)[:, 0].tolist())) == len(steps)


def noise_of(stream, seed, chunk):
    return stream._pipeline.rollout.noise(stream.state.rollout, seed=seed, chunk=chunk)


@pytest.mark.parametrize("memory", MEMORIES)
def test_memory_is_constant_and_no_slot_is_ever_moved(model, memory):
    stream = make_stream(model, memory)
    stream.cue(STAR)
    take(stream, 1)
    state = stream.state.rollout
    buffers = (
        state.cache.pool.keys.data_ptr(),
        state.cache.pool.values.data_ptr(),
    )
    sizes = (len(state.cache.slot_frames), state.recent.maxlen)
    for prompt in (TURN, HEART, STAR, TURN):
        take(stream, 7)
        stream.cue(prompt)
    take(stream, 12)
    assert stream.state.rollout is state
    assert (
        state.cache.pool.keys.data_ptr(),
        state.cache.pool.values.data_ptr(),
    ) == buffers
    assert (len(state.cache.slot_frames), state.recent.maxlen) == sizes
    assert len(state.recent) <= 4
    assert torch.isfinite(state.cache.pool.keys).all()


def test_a_slot_is_written_by_its_own_chunk_only(model):
    """Between switches the keys of a finished chunk never change: nothing is re-rotated."""
    stream = make_stream(model)
    stream.cue(STAR)
    take(stream, 6)
    cache = stream.state.rollout.cache
    held = {
        owner: cache.pool.keys[:, :, slot].clone() for slot, owner in enumerate(cache.slot_frames)
    }
    take(stream, 1)
    still_held = [owner for owner in cache.slot_frames if owner in held and owner >= 0]
    assert len(still_held) >= 3
    for owner in still_held:
        assert torch.equal(cache.pool.keys[:, :, cache.slot_frames.index(owner)], held[owner])


def test_memories_differ_after_a_switch(model):
    def run(memory):
        stream = make_stream(model, memory)
        stream.cue(STAR)
        take(stream, 8)
        stream.cue(TURN)
        return frames_of(take(stream, 6))

    videos = {memory: run(memory) for memory in MEMORIES}
    for a, b in itertools.combinations(videos, 2):
        assert not np.array_equal(videos[a], videos[b]), f"{a} and {b} gave the same video"


def test_other_sizes_where_the_model_can(model):
    stream = make_stream(model, size=(48, 32))
    stream.cue(STAR)
    assert take(stream, 1)[0].frames.shape == (9, 32, 48, 3)
    with pytest.raises(ConfigError, match="makes 32x16 px only"):
        make_stream(toy_model(any_size=False), size=(48, 32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (65, 64)}, "makes 64x64 px only"),
        ({"memory": "elephant"}, "choose one of anchor"),
        ({"model": ModelSpec(dtype="int8")}, "choose one of float32"),
        ({"model": ModelSpec(device="toaster")}, "choose cpu or cuda"),
        ({"model": "no/such/model"}, "there is no model 'no/such/model'"),
    ],
    ids=str,
)
def test_impossible_settings_say_what_is_allowed(settings, message):
    with pytest.raises(AfstreamError, match=message):
        Stream.open(**settings)


@pytest.mark.parametrize("model", ["pocket", ModelSpec(), StreamConfig()], ids=repr)
def test_nothing_is_loaded_before_all_is_checked(monkeypatch, model):
    monkeypatch.setattr(engine, "open_model", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(PromptError, match="does not know 'giraffe'"):
        Stream.open(model, prompts=("a giraffe",))
