"""The same stream on every backend, captured or not, compiled or not."""

import itertools
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tests.engine.fake_gpu import FakeGraphs
from tests.engine.toy import SIZES, toy_backbone, toy_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from afstream.config import SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.errors import ConfigError
from afstream.families.opening import check_compiler
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.model.dit import Backbone
from afstream.spec import StreamConfig
from afstream.stream import Stream
from afstream_kernels import Backend

STAR, TURN, HEART = "A red star drifts left.", "It turns right.", "A blue heart spins at night."
# one frame of two tokens: the interpreter is slow
SHAPE = (1, 3, 16, 2, 4)


def make_stream(backend, memory="anchor", *, compiled=False, **settings):
    # two denoise steps, one of which adds noise
    model = replace(toy_model(), sampler=SamplerConfig(steps=(1000, 500)))
    if compiled:
        check_compiler(model.backbone, torch.device("cpu")).compile_layers()
    return Stream(model, StreamConfig(memory=memory, backend=backend, **settings))


def taken(stream, count, switches=()):
    prompts = dict(switches)
    for index in range(count):
        if index in prompts:
            stream.cue(prompts[index])
        yield next(stream.chunks())


def latents_of(stream, count, switches=()):
    return torch.stack([chunk.latents.clone() for chunk in taken(stream, count, switches)])


@pytest.mark.parametrize("memory", ["anchor", "recache", "rolling"])
def test_triton_and_sdpa_give_the_latents_of_the_reference(memory):
    switches = {0: STAR, 4: TURN}
    exact, ours, vendors = (
        latents_of(make_stream(backend, memory), 7, switches)
        for backend in ("reference", "triton", "sdpa")
    )
    scale = float(exact.abs().max())
    assert_close(ours / scale, exact / scale, rtol=0, atol=1e-5)
    assert_close(vendors / scale, exact / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", ["sdpa", "triton"])
def test_a_fork_goes_on_alike_and_disturbs_nobody(backend):
    stream = make_stream(backend, seed=4)
    latents_of(stream, 4, {0: STAR, 3: TURN})
    branch, other = stream.fork(), stream.fork()
    other.cue(HEART)
    latents_of(other, 2)
    assert torch.equal(latents_of(stream, 3, {1: STAR}), latents_of(branch, 3, {1: STAR}))
    assert branch.state.segment == stream.state.segment
    assert stream.state.prompt == STAR


def gradients(backend):
    """Of a chunk's flow, to the noisy latents and to a few weights, with a full window behind."""
    model = toy_backbone().requires_grad_()
    rollout = Rollout.of(model, memory_policy("anchor", LENGTHS), SamplerConfig(), backend=backend)
    torch.manual_seed(1)
    with torch.no_grad():
        first, second = (model.text_context(torch.randn(1, 24, SIZES.text_dim)) for _ in range(2))
        state = rollout.start(first, SHAPE)
        for index in range(8):
            if index == 4:
                rollout.switch(state, second)
            rollout.commit(state, torch.randn(SHAPE))
        held = state.cache.pool.keys.clone(), state.cache.pool.values.clone()
    noisy = torch.randn(SHAPE, requires_grad=True)
    context = state.cache.chunk_context(state.frame)
    flow = model(noisy, rollout.times[1], state.text, context)
    names = (f"self_attn.{name}.weight" for name in ("q", "k", "v", "norm_q", "norm_k"))
    wanted = [noisy, *(model.blocks.get_parameter(f"{layer}.{n}") for n in names for layer in "01")]
    found = torch.autograd.grad(flow.square().sum(), wanted)
    for before, after in zip(held, (state.cache.pool.keys, state.cache.pool.values), strict=True):
        # while gradients are on, slots are only read
        assert torch.equal(before[:, :, 1:], after[:, :, 1:])
    return found


def test_gradients_are_those_of_the_reference_on_every_backend():
    # a stream goes first: what it leaves in caches must be fit for training
    latents_of(make_stream("triton"), 2, {0: STAR})
    exact = gradients("reference")
    for backend in ("triton", "sdpa"):
        for found, expected in zip(gradients(backend), exact, strict=True):
            assert float(expected.abs().max()) > 0
            scale = expected.abs().max()
            assert_close(found / scale, expected / scale, rtol=0, atol=2e-5)


@pytest.fixture
def fake_graphs(monkeypatch):
    return FakeGraphs(monkeypatch)


def captured_stream(backend, **settings):
    stream = make_stream(backend, **settings)
    stream._pipeline.rollout = replace(stream._pipeline.rollout, use_graphs=True)
    return stream


@pytest.mark.parametrize("backend", ["sdpa", "triton"])
def test_replayed_calls_see_what_a_stream_sees(backend, fake_graphs):
    """A prompt, a slot or an input that is not where the graph looks for it would be missed."""
    switches = {0: STAR, 4: TURN, 7: HEART}
    plain = latents_of(make_stream(backend), 9, switches)
    stream = captured_stream(backend)
    assert torch.equal(latents_of(stream, 9, switches), plain)
    made = stream.state.rollout.graphs.num_new
    latents_of(stream, 1)
    assert stream.state.rollout.graphs.num_new == made
    branch = stream.fork()
    # its first chunk runs as it is, the second is captured
    assert torch.equal(latents_of(branch, 2), latents_of(stream, 2))
    # all graphs of a stream share one pool, and a fork has its own
    assert len(set(fake_graphs.pools)) == 2
    assert {stream.name for stream in fake_graphs.streams} == {"capture"}


@pytest.mark.parametrize("backend", ["sdpa", "triton"])
def test_a_capture_that_fails_is_told_once_and_the_stream_goes_on(backend, fake_graphs):
    switches = {0: STAR, 4: TURN}
    plain = latents_of(make_stream(backend), 7, switches)
    stream = captured_stream(backend)
    fake_graphs.refuses = RuntimeError("operation not permitted\nwhen stream is capturing")
    assert stream.graphs
    found = list(taken(stream, 7, switches))
    assert torch.equal(torch.stack([chunk.latents for chunk in found]), plain)
    assert not stream.graphs
    (note,) = (note for chunk in found for note in chunk.notes)
    assert "RuntimeError: operation" in note
    assert "\n" not in note
    # what torch leaves current after a failed capture is not left to the stream
    assert fake_graphs.current == "main"
    tried = len(fake_graphs.pools)
    assert tried == 1
    # neither this stream nor a fork tries again
    fake_graphs.refuses = None
    branch = stream.fork()
    assert torch.equal(latents_of(branch, 3), latents_of(stream, 3))
    assert len(fake_graphs.pools) == tried
    assert not branch.graphs
    assert not next(stream.chunks()).warm_up


def test_an_interrupt_within_a_capture_is_no_failure_of_it(fake_graphs):
    stream = captured_stream("triton")
    latents_of(stream, 1, {0: STAR})
    fake_graphs.refuses = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        latents_of(stream, 1)
    assert stream.graphs
    assert fake_graphs.current == "main"
    fake_graphs.refuses = None
    assert torch.equal(latents_of(stream, 2), latents_of(make_stream("triton"), 3, {0: STAR})[1:])


def test_chunks_that_capture_are_warm_up(fake_graphs):
    stream = captured_stream("triton")
    stream.cue(STAR)
    found = [chunk.warm_up for chunk in itertools.islice(stream.chunks(), 4)]
    # the first runs as it is, the second is captured, from then on all is replayed
    assert found == [True, True, False, False]


def test_the_first_chunk_is_the_only_warm_up_without_graphs():
    stream = make_stream("sdpa")
    stream.cue(STAR)
    assert [chunk.warm_up for chunk in itertools.islice(stream.chunks(), 3)] == [True, False, False]


@pytest.mark.parametrize("backend", ["sdpa", "triton"])
def test_compiled_layers_are_one_graph_and_change_nothing(backend, monkeypatch):
    def compile_layers(self):
        self.is_compiled = True
        for layer in self.blocks:
            layer.compile(fullgraph=True, backend="aot_eager")

    monkeypatch.setattr(Backbone, "compile_layers", compile_layers)
    switches = {0: STAR, 2: TURN}
    plain = latents_of(make_stream(backend), 4, switches)
    torch._dynamo.reset()
    stream = make_stream(backend, compiled=True)
    assert stream.compiled
    assert stream.fork().compiled
    # another stream of the model runs the same layers, and says so
    assert Stream(stream.model).compiled
    assert not make_stream(backend).compiled
    assert_close(latents_of(stream, 4, switches), plain, rtol=0, atol=1e-5)
    # four chunks fill the window, and each met the compiler with another length
    assert not next(stream.chunks()).warm_up


class Recorder(TorchDispatchMode):
    """Counts what is called."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.overloadpacket._qualified_op_name] += 1
        return func(*args, **(kwargs or {}))


def test_a_steady_chunk_copies_no_cache_and_asks_the_device_nothing():
    policy = memory_policy("anchor", LENGTHS)
    # sizes and calls without any arithmetic; a value asked for would raise
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        rollout = Rollout.of(Backbone(SIZES), policy, SamplerConfig(), backend="triton")
        embeds = torch.zeros(1, SIZES.text_len, SIZES.text_dim)
        text = rollout.model.text_context(embeds)
        state = rollout.start(text, SHAPE)
        noise = torch.zeros(4, *SHAPE)
        for index in range(24):
            if index == 5:
                rollout.switch(state, text)
            rollout.commit(state, rollout.denoise(state, noise))
        with Recorder() as found:
            rollout.commit(state, rollout.denoise(state, noise))
    calls = 5 * SIZES.num_layers
    # nobody needs what the last layer of a context pass would see
    assert found.names["afstream::slot_attention"] == calls - 1
    assert found.names["afstream::norm_rope_write"] == calls
    assert found.names["afstream::copy_slots"] == 1
    forbidden = ("clone", "cat", "stack", "roll", "index_select", "_to_copy", "zeros", "item")
    assert not {name for name in forbidden if found.names[f"aten::{name}"]}
    # latents into tokens, flows out of them, and the segments of the chunk
    assert found.names["aten::copy_"] == 5 + 4 + 1


def test_a_switch_on_a_gpu_gathers_in_one_launch_a_layer_and_sends_nothing():
    """Torch's attention on a GPU; what the host sends anew would wait for the device."""
    policy = memory_policy("anchor", LENGTHS)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        backend = Backend("sdpa", fused=True)
        rollout = Rollout.of(Backbone(SIZES), policy, SamplerConfig(), backend=backend)
        text = rollout.model.text_context(torch.zeros(1, SIZES.text_len, SIZES.text_dim))
        state = rollout.start(text, SHAPE)
        for index in range(12):
            if index in (3, 9):
                rollout.switch(state, text)
            rollout.commit(state, torch.zeros(SHAPE))
        # distances that were not met before are sent once
        rollout.switch(state, text)
        with Recorder() as found:
            rollout.switch(state, text)
    # the last layer only writes
    assert found.names["afstream::copy_slots"] == SIZES.num_layers - 1
    assert found.names["afstream::norm_rope_write"] == SIZES.num_layers
    forbidden = ("index_select", "_to_copy", "_local_scalar_dense", "lift_fresh", "complex")
    assert not {name for name in forbidden if found.names[f"aten::{name}"]}


@torch.inference_mode()
def test_a_re_cache_that_sees_more_than_any_chunk_reads_slots_one_by_one():
    stream = make_stream("sdpa")
    latents_of(stream, 5, {0: STAR})
    cache = stream.state.rollout.cache
    slots = (1, 2, 3, 4)
    assert len(slots) <= cache.pool.num_visible
    query, offsets = torch.randn(1, 6, *cache.pool.keys.shape[-2:]), (9, 6, 3, 0)
    held = cache.pool.keys[0], cache.pool.values[0]
    gathered = cache.reader.block(slots, offsets).attend(query, *held)
    more = cache.reader.block((*slots, -1, -1), (*offsets, 0, 0)).attend(query, *held)
    assert_close(gathered, more, rtol=0, atol=1e-6)


def test_a_backend_that_cannot_run_is_one_sentence(monkeypatch):
    with pytest.raises(ConfigError, match="choose auto, triton, sdpa, reference"):
        make_stream("cuda")
    monkeypatch.setenv("AFSTREAM_BACKEND", "tritonn")
    with pytest.raises(ConfigError, match="AFSTREAM_BACKEND is 'tritonn'"):
        make_stream(None)
    monkeypatch.setenv("AFSTREAM_BACKEND", "reference")
    assert make_stream(None).backend.name == "reference"


def test_compiling_without_a_compiler_is_one_sentence(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(ConfigError, match=r"compiling needs one of g\+\+, clang\+\+"):
        make_stream("sdpa", compiled=True)


FIRST_MINUTE = """
import sys
from afstream import Stream
stream = Stream.open()
stream.cue("A red star drifts left.")
chunks = stream.chunks()
next(chunks)
stream.cue("It turns right.")
next(chunks)
loaded = {"triton", "torch._dynamo", "transformers", "diffusers"} & sys.modules.keys()
assert not loaded, loaded
"""


def test_a_stream_on_a_cpu_loads_no_compiler():
    """They take a second to load, and memory; a switch must not meet them either."""
    environment = {name: os.environ[name] for name in os.environ if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", FIRST_MINUTE], env=environment, check=True)
