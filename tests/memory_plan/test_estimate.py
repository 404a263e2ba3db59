"""Estimates against counted bytes: a real stream of a small model on the CPU.

Weights, slots, places and states are held exactly. What calls take is held to a tenth: small
things differ between the devices, such as attention's row sums, which the CPU's own operator
gives back in float32, and sizes of a hundred bytes that a tiny model does not hide.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from tests.memory_plan.asked import ask
from tests.wan_transformer import CONFIG

from afstream.config import WAN_BACKBONES, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.errors import ConfigError
from afstream.families.presets import LENGTHS
from afstream.families.random.model import random_backbone
from afstream.families.wan.family import WAN
from afstream.geometry import Geometry
from afstream.kvcache.memories import MEMORIES, memory_policy
from afstream.memory_plan.count import LiveBytes, held_bytes, weights_of
from afstream.memory_plan.estimate import estimate
from afstream.memory_plan.meta_model import MetaModel, count_decoding
from afstream.spec import ModelSpec, StreamConfig
from afstream.stream import Stream
from afstream_kernels import choose_backend

DEEP = replace(CONFIG, num_layers=5)
SIZE = WAN.sized(64, 32)
# attention over many tokens outweighs the rest, so that what is seen shows
WIDE = WAN.sized(128, 96)
TINY = "random:wan-tiny"
BACKENDS = ("sdpa", "reference", "triton")
NEAR = 0.1
ANCHOR = memory_policy("anchor", LENGTHS)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(WAN_BACKBONES, "wan-tiny", DEEP)


@pytest.fixture
def like_a_gpu(monkeypatch):
    """The CPU goes the ways of a GPU, with kernels that give results without computing them.

    Triton's interpreter would keep tensors longer than a GPU does.
    """
    pytest.importorskip("triton")
    monkeypatch.setattr("afstream_kernels.dispatch.GPUS", ("cuda", "meta", "cpu"))

    def attend(q, *_):
        return torch.zeros_like(q), q.new_zeros(*q.shape[:2], q.shape[2], dtype=torch.float32)

    def write(q, k, q_weight, k_weight, cos, sin, keys, *_):
        return q.new_zeros(*q.shape[:2], *keys.shape[3:])

    def copy(*_):
        return None

    def same(x, *_):
        return torch.zeros_like(x)

    monkeypatch.setattr("afstream_kernels.attention._attend", attend)
    monkeypatch.setattr("afstream_kernels.norm._norm_rope_write", write)
    monkeypatch.setattr("afstream_kernels.norm._modulate", same)
    monkeypatch.setattr("afstream_kernels.slots._copy", copy)


def report(model=None, *, size: Geometry | None = SIZE, **asked):
    return estimate(model or meta_model(), ask(size=size, **asked))


def steady(policy, backend):
    """A rollout of all layers before a chunk that sees the most it can."""
    model = random_backbone(DEEP, device="cpu", dtype=torch.float32)
    rollout = Rollout.of(model, policy, SamplerConfig(), backend=backend)
    draw = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, DEEP.text_len, DEEP.text_dim, generator=draw)
    text = model.text_context(embeds)
    shape = meta_model().chunk_shape(policy, WIDE)
    clean = torch.randn(shape, generator=draw)
    noise = torch.randn(4, *shape, generator=draw)
    state = rollout.start(text, shape)
    for _ in range(policy.lengths.window_frames // 3 + 1):
        rollout.commit(state, clean)
    rollout.switch(state, text)
    for _ in range(policy.lengths.local_frames // 3):
        rollout.commit(state, clean)
    return rollout, state, text, noise, clean


def on_gpu(backend):
    return choose_backend(backend, device="meta", dtype=torch.float32)


def measured(call):
    """Most bytes in a call; a first one fills the tables that are kept."""
    with LiveBytes("cpu") as live:
        call()
    return live.peak


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory", ["anchor", "rolling"])
@torch.inference_mode()
def test_calls_take_what_was_counted_without_memory(backend, memory, like_a_gpu):
    policy = memory_policy(memory, LENGTHS)
    counted = meta_model().calls(WIDE, policy, on_gpu(backend))
    rollout, state, text, noise, clean = steady(policy, backend)
    rollout.denoise(state, noise)
    # on a GPU noise comes from the host
    denoise = measured(lambda: rollout.denoise(state, noise)) + 4 * noise.numel()
    assert counted.denoise == pytest.approx(denoise, rel=NEAR)
    context = measured(lambda: rollout.commit(state, clean))
    assert counted.context == pytest.approx(context, rel=NEAR)
    if memory == "rolling":
        assert counted.recache == 0
        return
    rollout.switch(state, text)
    recache = measured(lambda: rollout.switch(state, text))
    assert counted.recache == pytest.approx(recache, rel=NEAR)
    assert counted.recache > 2 * counted.context


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory", MEMORIES)
def test_slots_are_those_that_a_stream_reserves(backend, memory):
    if backend == "triton":
        pytest.importorskip("triton")
    model = random_backbone(DEEP, device="cpu", dtype=torch.float32)
    policy = memory_policy(memory, LENGTHS)
    rollout = Rollout.of(model, policy, SamplerConfig(), backend=backend)
    state = rollout.start((), meta_model().chunk_shape(policy, SIZE))
    parts = report(memory=memory, backend=backend)
    slots = held_bytes((state.cache.pool.keys, state.cache.pool.values))
    gathered = held_bytes(state.cache.reader.copies)
    assert parts.bytes_of("KV window") + parts.bytes_of("KV anchors") == slots
    assert parts.bytes_of("gathered KV") == gathered
    chunk = slots // state.cache.pool.keys.shape[2]
    anchors = {"anchor": 3, "recache": 1, "recapture": 1, "rolling": 0, "clear": 0}
    assert parts.bytes_of("KV anchors") == anchors[memory] * chunk


def meta_model(name=TINY, dtype="float32"):
    return MetaModel.open(StreamConfig(model=ModelSpec(name=name)), dtype=dtype)


@pytest.mark.parametrize("offload", [0, 1, 2, 4, 5])
def test_weights_are_those_on_the_device_and_those_at_home(offload):
    model = random_backbone(DEEP, device="cpu", dtype=torch.float32, offload=offload)
    parts = report(offload=offload)
    places = held_bytes(model.parameters())
    if offload == 1:
        # a lone swapped layer has one buffer
        assert len(model._swap._buffers) == 1
    assert parts.bytes_of("backbone weights") == places
    homes = held_bytes(model._swap._host) if offload else 0
    assert parts.bytes_of("offloaded layers") == parts.host_bytes == homes


def test_more_layers_than_there_are_cannot_be_offloaded():
    with pytest.raises(ConfigError, match="6 layers are to be offloaded"):
        report(offload=6)


def test_text_keys_are_those_of_a_prompt():
    model = random_backbone(DEEP, device="cpu", dtype=torch.float32)
    keys = model.text_context(torch.zeros(1, DEEP.text_len, DEEP.text_dim))
    assert report().bytes_of("text keys") == held_bytes(
        tensor for layer in keys for tensor in (layer.k, layer.v)
    )


@pytest.mark.parametrize("name", ["pocket", TINY])
def test_a_whole_stream_takes_no_more_than_was_estimated(name):
    """On a CPU decoding follows denoising; on a GPU it runs beside it."""
    size = None if name == "pocket" else (SIZE.width_px, SIZE.height_px)
    spec = ModelSpec(name=name, device="cpu", dtype="float32")
    prompts = ("A red star drifts left.", "It is blue.", "It turns right.")
    with LiveBytes("cpu") as live:
        stream = Stream.open(spec, size=size, backend="reference")
        weights = held_bytes(weights_of(stream.model.backbone))
        # the loader's own tensors, such as what it reads from a file
        held = sum(
            held_bytes(weights_of(part))
            for part in (stream.model.backbone, stream.model.text, stream.model.vae)
        )
        before = live.now
        live.reset_peak()
        chunks = stream.chunks()
        # a full window; its junction out of it; all of that written anew
        for prompt, count in zip(prompts, (5, 3, 1), strict=True):
            stream.cue(prompt)
            list(itertools.islice(chunks, count))
        taken = live.peak - before + held
    found = report(
        meta_model(name), size=None if name == "pocket" else SIZE, backend="reference", prompts=3
    )
    assert found.bytes_of("backbone weights") == weights
    beside = min(found.bytes_of("decoding"), found.bytes_of("re-cache"))
    assert taken <= found.tensor_bytes
    assert taken >= (found.tensor_bytes - beside) * (1 - 2 * NEAR)


def test_the_decoder_is_counted_as_it_decodes():
    stream = Stream.open("pocket")
    stream.cue("A red star.")
    chunks = stream.chunks()
    latents = next(chunks).latents
    state = stream.state.decoder
    counted = count_decoding(meta_model("pocket").model.vae, tuple(latents.shape), torch.float32)
    assert counted.state == held_bytes(state.past)
    taken = measured(lambda: decode(stream.model.vae, latents, state))
    assert counted.work == pytest.approx(taken, rel=NEAR)


@torch.inference_mode()
def decode(vae, latents, state):
    video, after = vae.decode(latents, state)
    levels = ((video[0].float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous(), after


def test_captured_calls_keep_their_memory():
    model = meta_model()
    plain, captured = (report(model, backend="triton", graphs=graphs) for graphs in (False, True))
    calls = model.calls(SIZE, ANCHOR, on_gpu("triton"))
    assert captured.bytes_of("captured graphs") == calls.denoise + calls.context
    assert plain.bytes_of("captured graphs") == 0
    assert captured.peak_bytes > plain.peak_bytes
    # two lengths of the gathered copy come back, with the junction and without
    calls = model.calls(SIZE, ANCHOR, on_gpu("sdpa"))
    twice = report(model, backend="sdpa")
    assert twice.bytes_of("captured graphs") == 2 * (calls.denoise + calls.context)
    once = report(model, backend="sdpa", memory="recache")
    calls = model.calls(SIZE, memory_policy("recache", LENGTHS), on_gpu("sdpa"))
    assert once.bytes_of("captured graphs") == calls.denoise + calls.context
    for found in (report(model, offload=2), report(model, backend="reference")):
        assert found.bytes_of("captured graphs") == 0


def test_the_production_size_by_hand():
    """1.3B at 480p in bfloat16: layers x slots x tokens x heads x values x bytes x (k, v)."""
    model = meta_model("random:wan-1.3b", "bfloat16")
    whole = WAN.sized(832, 480)
    parts = report(model, size=whole, backend="triton")
    chunk = 30 * 4680 * 12 * 128 * 2 * 2
    assert parts.bytes_of("KV window") == 4 * chunk
    assert parts.bytes_of("KV anchors") == 3 * chunk
    assert parts.bytes_of("gathered KV") == 0
    gathered = report(model, size=whole, backend="sdpa").bytes_of("gathered KV")
    assert gathered == 5 * chunk
    assert parts.bytes_of("text keys") == 30 * 512 * 1536 * 2 * 2
    # 1.42 thousand million parameters
    assert parts.bytes_of("backbone weights") == 2 * 1_418_996_800
    # a feed-forward layer's widest tensor, its input and what that is added to are the least that
    # a call can need; GELU is applied as the product is written
    assert parts.bytes_of("denoising") > 4680 * (8960 + 2 * 1536) * 2
    assert parts.bytes_of("re-cache") > 4 * 4680 * (8960 + 2 * 1536) * 2
    data = parts.as_data()
    assert data["peak_bytes"] == max(phase["held"] for phase in data["phases"])
    assert {part["name"]: part["bytes"] for part in data["parts"]}["text keys"] == (
        parts.bytes_of("text keys")
    )


def test_a_hundredth_of_what_stays_and_a_tenth_of_what_passes_are_allowed_for():
    found = report(backend="sdpa")
    assert {phase.name for phase in found.phases} >= {"load", "stream", "switch"}
    for phase in found.phases:
        here = [part for part in found.parts if phase.name in part.phases]
        passing = sum(part.bytes for part in here if part.passes)
        staying = sum(part.bytes for part in here if not part.passes)
        assert phase.slack == pytest.approx(staying / 100 + passing / 10, abs=1)
        assert phase.held >= phase.tensors + phase.slack
