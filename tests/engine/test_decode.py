"""Chunks launched ahead of the one handed out: the same video, in the order that a GPU needs."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.engine.fake_gpu import Gpu
from tests.engine.toy import toy_model

from afstream.bench import Load, Meter
from afstream.engine.decode import ChunkDecoder, CudaDecodeStream, PendingChunk
from afstream.engine.pipeline import ChunkPipeline
from afstream.engine.rollout import Rollout
from afstream.engine.stopwatch import Stopwatch, span_ms
from afstream.spec import StreamConfig
from afstream.stream import Stream
from afstream.timeline import Timeline

STAR, TURN, HEART = "A red star drifts left.", "It turns right.", "A blue heart spins at night."
NUM_CHUNKS = 9
TIMELINE = f"""
@seed 3
@duration [{NUM_CHUNKS}c]
0:00            {STAR}
[2c]            {TURN}
[4c] cut seed=8 {HEART}
[6c] blend=1.5s {STAR}
"""


@pytest.fixture(scope="module")
def model():
    return toy_model()


def make_stream(model, **settings):
    return Stream(model, StreamConfig(**settings))


def take(stream, count):
    return list(itertools.islice(stream.chunks(), count))


def indices(chunks):
    return [chunk.index for chunk in chunks]


def same_video(chunks, others):
    return len(chunks) == len(others) and all(
        np.array_equal(a.frames, b.frames) and torch.equal(a.latents, b.latents)
        for a, b in zip(chunks, others, strict=True)
    )


def told(chunk):
    """All that is said about a chunk, but for times."""
    receipts = [replace(receipt, switch_ms=None) for receipt in chunk.receipts]
    return chunk.index, chunk.segment, chunk.prompt, chunk.start_s, receipts, chunk.warm_up


@pytest.fixture
def log(monkeypatch):
    """What is computed, in its order."""
    done: list[str] = []
    for name in ("denoise", "commit"):
        whole = getattr(Rollout, name)

        def call(self, state, source, *, whole=whole, name=name):
            done.append(name)
            return whole(self, state, source)

        monkeypatch.setattr(Rollout, name, call)
    return done


def test_ahead_changes_no_frame_and_no_receipt(model):
    waits, ahead = (
        list(make_stream(model, ahead=ahead).play(Timeline.parse(TIMELINE)))
        for ahead in (False, True)
    )
    assert same_video(waits, ahead)
    assert [told(chunk) for chunk in waits] == [told(chunk) for chunk in ahead]
    assert all((receipt.switch_ms or 0) > 0 for chunk in ahead for receipt in chunk.receipts)


def test_the_first_chunk_waits_for_no_other_and_nothing_comes_after_the_last(model, log):
    stream = make_stream(model, ahead=True)
    launched = [log.count("denoise") for _ in stream.play(Timeline.parse(TIMELINE))]
    assert launched == [1, *range(3, NUM_CHUNKS + 1), NUM_CHUNKS]
    assert not make_stream(model).ahead
    stream = make_stream(model, ahead=False)
    log.clear()
    launched = [log.count("denoise") for _ in stream.play(Timeline.parse(TIMELINE))]
    assert launched == list(range(1, NUM_CHUNKS + 1))


def test_a_cue_changes_the_next_chunk_that_is_launched(model):
    stream = make_stream(model, ahead=True)
    stream.cue(STAR)
    chunks = stream.chunks()
    shown = list(itertools.islice(chunks, 3))
    assert stream.next_chunk == 4
    receipt = stream.cue(TURN)
    assert receipt.chunk is None
    waiting = next(chunks)
    # launched by now, but not seen
    assert (waiting.index, waiting.prompt, waiting.receipts) == (3, STAR, ())
    assert (receipt.chunk, receipt.switch_ms) == (4, None)
    first = next(chunks)
    assert (first.index, first.prompt, first.receipts) == (4, TURN, (receipt,))
    assert receipt.switch_ms is not None
    assert receipt.switch_ms > 0
    # the receipt is true: a timeline that says so makes the same video
    text = f"@duration [5c]\n0:00 {STAR}\n[4c] {TURN}"
    replayed = list(make_stream(model).play(Timeline.parse(text)))
    assert same_video([*shown, waiting, first], replayed)


def test_what_is_cued_before_a_launch_changes_that_chunk(model):
    stream = make_stream(model, ahead=True)
    prompts = {0: STAR, 1: TURN, 2: HEART, 5: STAR}
    asked: list[float] = []

    def cue():
        if stream.next_chunk in prompts:
            asked.append(stream.next_s)
            stream.cue(prompts[stream.next_chunk])

    found = [
        (receipt.chunk, chunk.index, chunk.start_s)
        for chunk in itertools.islice(stream.chunks(before=cue), 6)
        for receipt in chunk.receipts
    ]
    assert found == [(index, index, at) for index, at in zip(prompts, asked, strict=True)]


@pytest.mark.parametrize("begin", ["chunks", "play"])
def test_a_stream_given_up_goes_on_with_the_chunk_waiting(model, begin):
    whole = make_stream(model)
    whole.cue(STAR)
    expected = take(whole, 6)
    stream = make_stream(model, ahead=True)
    if begin == "chunks":
        stream.cue(STAR)
        chunks = stream.chunks()
    else:
        chunks = stream.play(Timeline.parse(f"@duration [6c]\n0:00 {STAR}"))
    found = list(itertools.islice(chunks, 3))
    del chunks
    assert stream.next_chunk == 4
    found += take(stream, 3)
    assert indices(found) == list(range(6))
    assert same_video(found, expected)


def test_a_fork_hands_out_the_chunk_waiting_too(model, log):
    stream = make_stream(model, ahead=True)
    stream.cue(STAR)
    take(stream, 3)
    receipt = stream.cue(TURN)
    # chunk 3 is handed out; 4, under the new prompt, is in pending
    take(stream, 1)
    log.clear()
    branch = stream.fork()
    assert not log
    assert branch.ahead
    other = stream.fork()
    other.cue(HEART, transition="cut")
    found, others = take(stream, 3), take(other, 3)
    switch_ms = receipt.switch_ms
    same = take(branch, 3)
    assert indices(found) == indices(same) == indices(others) == [4, 5, 6]
    assert found[0].receipts == same[0].receipts == (receipt,)
    assert receipt.switch_ms == switch_ms
    assert same_video(found, same)
    assert np.array_equal(others[0].frames, found[0].frames)
    assert not np.array_equal(others[2].frames[:9], found[2].frames[:9])
    # what one does with its frames is nothing to the other
    assert not np.shares_memory(found[0].frames, same[0].frames)


def test_a_wait_that_is_broken_off_loses_nothing(model, monkeypatch):
    stream = make_stream(model, ahead=True)
    stream.cue(STAR)
    take(stream, 2)
    with monkeypatch.context() as patch:
        patch.setattr(stream._pipeline.decoder.stream, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take(stream, 1)
    assert indices(take(stream, 2)) == [2, 3]


def interrupted(mark):
    raise KeyboardInterrupt


@pytest.fixture
def gpu(monkeypatch):
    return Gpu(monkeypatch)


def side_by_side(model, gpu, **settings):
    stream = make_stream(model, **settings)
    stream._pipeline.decoder = ChunkDecoder(
        gpu.decoder(model.vae), CudaDecodeStream(torch.device("cuda", 0))
    )
    return stream


@pytest.mark.parametrize("ahead", [False, True])
def test_each_step_waits_for_what_it_needs_and_for_nothing_else(model, gpu, ahead):
    """On a GPU a step that does not wait reads what is not there yet: no CPU would notice."""
    plain = list(make_stream(model).play(Timeline.parse(TIMELINE)))
    gpu.log.clear()
    stream = side_by_side(model, gpu, ahead=ahead)
    chunks = list(stream.play(Timeline.parse(TIMELINE)))
    assert same_video(chunks, plain)
    log = gpu.log
    denoised, committed = gpu.places("denoise", "main"), gpu.places("commit", "main")
    # whether latents are finite, then the pictures
    decoded, copied = gpu.places("decode", "side"), gpu.places("copy", "side")[1::2]
    waits, holds = gpu.places("wait"), gpu.places("hold", "side")
    arrivals = gpu.places("host waits")
    assert {entry[1] for entry in (log[at] for at in waits)} == {"side"}
    for steps in (denoised, committed, decoded, copied, holds, arrivals):
        assert len(steps) == NUM_CHUNKS
    # nothing else was decoded, copied or waited for
    assert len(gpu.places("decode")) == NUM_CHUNKS
    assert len(gpu.places("copy")) == 2 * NUM_CHUNKS
    assert len(waits) == 2 * NUM_CHUNKS
    # what is decoded goes before the next chunk's work
    assert gpu.made == [(torch.device("cuda", 0), -1)]
    for index, chunk in enumerate(chunks):
        first, last = waits[2 * index : 2 * index + 2]
        # decoding waits for an event behind the last denoise step and before the context pass
        ready = log.index(("record", "main", log[first][2]))
        assert denoised[index] < ready < first < decoded[index] < committed[index]
        assert log[holds[index]][2] is chunk.latents
        assert holds[index] < decoded[index] < copied[index] < committed[index]
        # frames are there when an event behind the copy is reached; they wait for no context pass
        there = log.index(("record", "side", log[arrivals[index]][1]))
        assert copied[index] < there < committed[index]
        assert there < arrivals[index]
        # the chunk is done, and its times are known, when one behind both is reached
        launched, read = log.index(("record", "main", log[last][2])), len(log)
        assert chunk.timing.context_ms > 0
        ((waited, event),) = log[read:]
        assert waited == "host waits"
        assert committed[index] < launched < last < log.index(("record", "side", event))
        assert chunk.timing is chunk.timing
    # of a stream that runs ahead, only the first chunk is waited for before the next is launched
    early = [index for index in range(NUM_CHUNKS - 1) if arrivals[index] < denoised[index + 1]]
    assert early == ([0] if ahead else list(range(NUM_CHUNKS - 1)))


def test_a_fork_decodes_on_the_same_stream(model, gpu):
    stream = side_by_side(model, gpu, ahead=True)
    stream.cue(STAR)
    take(stream, 3)
    branch = stream.fork()
    assert branch._pipeline.decoder is stream._pipeline.decoder
    assert same_video(take(stream, 2), take(branch, 2))


def flight_of(frames, *, laps, began, before, done):
    watch = Stopwatch(lambda: began)
    watch._laps = laps
    return PendingChunk(
        index=1,
        segment=0,
        prompt="",
        latents=frames,
        start_s=0.0,
        receipts=(),
        began=0.0,
        frames=frames,
        is_finite=torch.tensor(True),
        ready=done,
        watch=watch,
        before=before,
        done=done,
        warm_up=False,
    )


def test_time_in_the_model_is_counted_once_where_chunks_overlap(model):
    """Seconds: 0-4 denoise, 4-9 decode beside 4-5 context and 5-9 denoise, 9-14 beside 9-10."""
    delivery = make_stream(model)._pipeline.decoder
    frames = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    spans = [((0, 4), (4, 9), (4, 5)), ((5, 9), (9, 14), (9, 10))]
    laps = [
        {"switch": (start[0], start[0]), "denoise": start, "decode": decode, "context": context}
        for start, decode, context in spans
    ]
    first = flight_of(frames, laps=laps[0], began=0, before=None, done=9)
    second = flight_of(frames, laps=laps[1], began=5, before=9, done=14)
    timings = [delivery.collect(x, began=0.0, warm_up=False).timing for x in (first, second)]
    assert [timing.model_ms for timing in timings] == [9000, 5000]
    assert [timing.denoise_ms for timing in timings] == [4000, 4000]
    assert [timing.decode_ms for timing in timings] == [5000, 5000]
    assert [timing.context_ms for timing in timings] == [1000, 1000]
    # after a pause it counts from its own beginning
    third = flight_of(frames, laps=laps[1], began=5, before=2, done=14)
    assert delivery.collect(third, began=0.0, warm_up=False).timing.model_ms == 9000


def test_clocks_of_host_and_gpu_are_not_mixed():
    of_a_gpu: Any = SimpleNamespace()
    with pytest.raises(TypeError, match="no common clock"):
        span_ms(1.0, of_a_gpu)


def test_a_stream_that_runs_ahead_is_measured(monkeypatch):
    stream = make_stream(toy_model(), ahead=True)
    monkeypatch.setattr(Stream, "open", lambda _: stream)
    meter = Meter(Load(duration_s=6, switch_every_s=2))
    chunks = list(meter.run())
    result = meter.result()
    assert result.model["ahead"]
    assert result.frames == sum(len(chunk.frames) for chunk in chunks[1:])
    # asked for when 2 and 4 s were seen, one chunk later than without running ahead
    assert [chunk.index for chunk in chunks if chunk.receipts] == [0, 4, 7]
    assert result.switch_ms.count == 2
    assert 0 <= result.outside_model < 1
    # the cuts that were timed were seen: three, each behind the chunk in pending
    assert stream.next_chunk == chunks[-1].index + 2 + 3 * 2
    assert result.first_frame.warm_ms is not None


def test_what_warms_up_while_a_chunk_is_waited_for_is_told(model, monkeypatch):
    """Its time lies in that of the chunk which is handed out, so neither may be counted."""
    monkeypatch.setattr(ChunkPipeline, "_warms_up", lambda self, *_: self.state.chunk == 3)
    waits, ahead = (make_stream(model, ahead=ahead) for ahead in (False, True))
    for stream in (waits, ahead):
        stream.cue(STAR)
    assert [chunk.warm_up for chunk in take(waits, 5)] == [False, False, False, True, False]
    assert [chunk.warm_up for chunk in take(ahead, 5)] == [False, False, True, True, False]


ON_A_GPU = """
import torch
from gpu_stages.correctness import AHEAD_CHUNKS, check_ahead
checks = list(check_ahead(torch.device("cuda"), AHEAD_CHUNKS))
assert len(checks) == 4
wrong = [check for check in checks if not check.passed]
assert not wrong, wrong
"""


@pytest.mark.gpu
def test_ahead_changes_no_frame_on_a_gpu():
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(str(root / name) for name in ("benchmarks", "src", "kernels"))
    # the tests interpret; the GPU must not
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", ON_A_GPU], env=environment, check=True)


@pytest.mark.parametrize("when", ["denoise", "commit"])
def test_a_chunk_that_is_broken_off_is_made_again_as_it_was(model, monkeypatch, when):
    whole, stream = make_stream(model), make_stream(model)
    for each in (whole, stream):
        each.cue(STAR)
    expected = [chunk.frames for chunk in take(whole, 4)]
    made = [chunk.frames for chunk in take(stream, 2)]
    with monkeypatch.context() as patch:
        patch.setattr(type(stream._pipeline.rollout), when, broken_off)
        with pytest.raises(KeyboardInterrupt):
            take(stream, 1)
    made += [chunk.frames for chunk in take(stream, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(made, expected, strict=True))


def broken_off(*_):
    raise KeyboardInterrupt
