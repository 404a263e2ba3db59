"""What the host asks of a GPU, recorded where there is none: the right one, and no waiting."""

import contextlib
import importlib
from types import SimpleNamespace

import pytest
import torch
from tests.engine.fake_gpu import FakeGraphs
from tests.engine.toy import toy_model

from afstream.attention.rope import RopeTables
from afstream.engine import cuda_graph, pipeline, scheduler
from afstream.engine.rollout import Rollout
from afstream.families import opening
from afstream.model import block_swap
from afstream.model.block_swap import BlockSwap
from afstream.spec import ModelSpec, StreamConfig
from afstream.stream import Stream
from afstream_kernels import host, to_device

SECOND = torch.device("cuda", 1)
LAUNCHES = {
    "attention": ("forward",),
    "attention_backward": ("to_queries", "to_own"),
    "norm": ("norm_rope", "norm_rope_write", "norm_rope_backward", "modulate"),
    "slots": ("copy_slots",),
}


class Current:
    """Which device is current, for whatever asks to change it."""

    def __init__(self):
        self.device = None

    @contextlib.contextmanager
    def on(self, device):
        before, self.device = self.device, device
        yield
        self.device = before


@pytest.fixture
def current():
    return Current()


@pytest.fixture
def sent(monkeypatch):
    """Copies to a GPU: whether from pinned memory, and whether the host waits."""
    done, whole = [], torch.Tensor.to
    pinned = []

    def pin(x):
        pinned.append(x.clone())
        return pinned[-1]

    def to(x, *args, **settings):
        if args and args[0] == SECOND:
            done.append((any(x is one for one in pinned), settings.get("non_blocking", False)))
            return x
        return whole(x, *args, **settings)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    host.device_ints.cache_clear()
    yield done
    # what it cached for a GPU lies on the host
    host.device_ints.cache_clear()


def test_small_values_are_sent_without_waiting(sent):
    tables = RopeTables(32, torch.bfloat16, SECOND)
    tables.block((3, 2, 4))
    # absolute positions with a sink: other distances for every chunk
    for frame in range(3, 12, 3):
        tables.shift((-frame, -6, -3))
    host.device_ints((0, 2, 5), SECOND)
    assert len(sent) == 2 + 3 * 2 + 1
    assert set(sent) == {(True, True)}
    # the same come back
    tables.shift((-9, -6, -3))
    host.device_ints((0, 2, 5), SECOND)
    assert len(sent) == 9


def test_what_stays_on_the_host_is_not_pinned(sent):
    x = torch.ones(2)
    assert to_device(x, torch.device("cpu")) is x
    assert not sent


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in LAUNCHES.items() for name in names]
)
def test_kernels_are_launched_on_their_tensors_device(module, name, current, monkeypatch):
    pytest.importorskip("triton")
    launch = getattr(importlib.import_module(f"afstream_kernels.triton.{module}"), name)
    monkeypatch.setattr(torch.cuda, "device", current.on)
    seen = []

    class OnSecond(SimpleNamespace):
        device = SECOND

        @property
        def shape(self):
            seen.append(current.device)
            raise LookupError("nothing is launched here")

        def __getattr__(self, _):
            return self.shape

    held = OnSecond()
    count = launch.__wrapped__.__code__.co_argcount
    with pytest.raises(LookupError):
        launch(*[held] * count)
    assert seen == [SECOND]


@pytest.fixture
def engine(current, monkeypatch):
    """The engine, which asks for the device of a model on the CPU as it does on a GPU."""
    for module in (pipeline, scheduler, cuda_graph, opening):
        monkeypatch.setattr(module, "on_device", current.on)
    return current


def test_a_stream_encodes_and_submits_on_its_models_device(engine, monkeypatch):
    model, seen = toy_model(), []
    encode = model.text.encode
    monkeypatch.setattr(
        type(model.text),
        "encode",
        lambda _, prompts: seen.append(("encode", engine.device)) or encode(prompts),
        raising=False,
    )
    for name in ("switch", "denoise", "commit"):
        whole = getattr(Rollout, name)

        def call(self, *args, whole=whole, name=name, **settings):
            seen.append((name, engine.device))
            return whole(self, *args, **settings)

        monkeypatch.setattr(Rollout, name, call)
    stream = Stream(model, StreamConfig())
    stream.cue("A red star drifts left.")
    chunks = stream.chunks()
    next(chunks)
    stream.cue("It turns right.")
    next(chunks)
    here = torch.device("cpu")
    names = ["encode", "denoise", "commit", "encode", "switch", "denoise", "commit"]
    assert seen == [(name, here) for name in names]
    assert engine.device is None


def test_a_model_is_loaded_with_its_device_current(engine, monkeypatch):
    seen = []
    family = opening.family_of(ModelSpec())
    whole = type(family).open

    def load(self, *args):
        seen.append(engine.device)
        return whole(self, *args)

    monkeypatch.setattr(type(family), "open", load)
    opening.open_model(ModelSpec(device="cpu"))
    assert seen == [torch.device("cpu")]


def test_a_call_is_captured_on_its_device(engine, monkeypatch):
    fake = FakeGraphs(monkeypatch)
    graphs, seen = cuda_graph.Graphs(), []

    def call(x):
        seen.append(engine.device)
        return (x + 1,)

    for _ in range(3):
        (found,) = graphs.run("kind", call, torch.ones(2), torch.device("cpu"))
        assert found.tolist() == [2, 2]
    # as it is, captured, and what the fake does for a replay of the two
    assert seen[:2] == [None, torch.device("cpu")]
    assert [stream.device for stream in fake.streams] == [torch.device("cpu")]


def test_offloaded_layers_are_waited_for_on_their_device(monkeypatch):
    swap = BlockSwap([torch.nn.Linear(2, 2)], torch.device("cpu"))
    swap._on_gpu, swap._device = True, SECOND
    asked, recorded, waits = [], [], []
    stream = SimpleNamespace(wait_event=waits.append)

    def current_stream(device=None):
        asked.append(device)
        return stream

    monkeypatch.setattr(block_swap.torch.cuda, "current_stream", current_stream)
    monkeypatch.setattr(
        block_swap.torch.cuda,
        "Event",
        lambda: SimpleNamespace(record=lambda stream=None: recorded.append(stream)),
    )
    event = swap._record()
    swap._wait(event)
    assert recorded == [stream]
    assert waits == [event]
    assert asked == [SECOND, SECOND]
