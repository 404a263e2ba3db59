"""CUDA where there is none: what the host asks of it is recorded, and computed on the CPU."""

import contextlib
import itertools
from types import SimpleNamespace
from typing import Any

import torch

from afstream.engine import cuda_graph
from afstream.engine.cuda_graph import Graphs
from afstream.engine.rollout import Rollout


class FakeGraphs:
    """CUDA graphs whose replay does the captured call again: what a graph keeps, nothing else."""

    def __init__(self, monkeypatch):
        self.captured = []
        self.pools = []
        self.streams = []
        self.refuses: BaseException | None = None
        self.current = "main"
        fake, whole = self, Graphs._capture

        class Graph:
            kept: Any

            def replay(self):
                kept = self.kept
                for place, found in zip(kept.results, kept.call(kept.source), strict=True):
                    place.copy_(found)

        class Capture:
            """As torch's: where ending fails, its stream stays the current one."""

            def __init__(self, graph, pool=None, stream=None, capture_error_mode="global"):
                self.stream = stream
                assert capture_error_mode == "thread_local"
                fake.pools.append(pool)
                fake.streams.append(stream)

            def __enter__(self):
                self.before, fake.current = fake.current, self.stream.name

            def __exit__(self, *_):
                if fake.refuses is not None:
                    raise RuntimeError("operation failed due to a previous error during capture")
                fake.current = self.before

        @contextlib.contextmanager
        def on(stream):
            before, fake.current = fake.current, stream.name
            try:
                yield
            finally:
                fake.current = before

        def capture(graphs, call, source, device):
            def refusing(place):
                if fake.refuses is not None:
                    raise fake.refuses
                return tuple(result.clone() for result in call(place))

            captured = whole(graphs, refusing, source, device)
            # it holds what the graph reads, whatever caches drop meanwhile
            assert captured.call is refusing
            captured.call = call
            captured.graph.kept = captured
            fake.captured.append(captured)
            return captured

        cuda_graph._capture_stream.cache_clear()
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Capture)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
        monkeypatch.setattr(
            torch.cuda, "Stream", lambda device: SimpleNamespace(name="capture", device=device)
        )
        monkeypatch.setattr(torch.cuda, "stream", on)
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda _: SimpleNamespace(name=fake.current)
        )
        monkeypatch.setattr(Graphs, "_capture", capture)


class Gpu:
    """CUDA's streams and events as a list of what the host asked of them."""

    def __init__(self, monkeypatch):
        self.log: list[tuple] = []
        self.current = "main"
        self.clock = itertools.count()
        self.made: list[tuple] = []
        gpu = self

        class Event:
            def __init__(self, enable_timing=False):
                self.at = None

            def record(self, stream):
                self.at = next(gpu.clock)
                gpu.log.append(("record", stream.name, self))

            def synchronize(self):
                gpu.log.append(("host waits", self))

            def elapsed_time(self, other):
                return float(other.at - self.at)

        class CudaStream:
            def __init__(self, device, name="side", priority=0):
                self.name = name
                if device is not None:
                    gpu.made.append((device, priority))

            def wait_event(self, event):
                gpu.log.append(("wait", self.name, event))

        @contextlib.contextmanager
        def on(stream):
            before, gpu.current = gpu.current, stream.name
            yield
            gpu.current = before

        whole_copy, whole_empty = torch.Tensor.copy_, torch.empty
        pinned: list[torch.Tensor] = []

        def empty(*args, pin_memory=False, **kwargs):
            found = whole_empty(*args, **kwargs)
            if pin_memory:
                pinned.append(found)
            return found

        def copy(target, source, non_blocking=False):
            if any(target is block for block in pinned):
                assert non_blocking
                gpu.note("copy")
            return whole_copy(target, source)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "Stream", CudaStream)
        monkeypatch.setattr(torch.cuda, "stream", on)
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda _: CudaStream(None, name=gpu.current)
        )
        monkeypatch.setattr(torch, "empty", empty)
        monkeypatch.setattr(torch.Tensor, "copy_", copy)
        monkeypatch.setattr(
            torch.Tensor,
            "record_stream",
            lambda held, stream: gpu.log.append(("hold", stream.name, held)),
        )
        for name in ("switch", "denoise", "commit"):
            self.watch(monkeypatch, name)

    def note(self, what):
        self.log.append((what, self.current))

    def watch(self, monkeypatch, name):
        whole = getattr(Rollout, name)

        def call(rollout, *args, **kwargs):
            self.note(name)
            return whole(rollout, *args, **kwargs)

        monkeypatch.setattr(Rollout, name, call)

    def decoder(self, vae):
        def decode(latents, state):
            self.note("decode")
            return vae.decode(latents, state)

        return SimpleNamespace(decode=decode)

    def places(self, *entry):
        """Where in the log entries begin so."""
        return [at for at, found in enumerate(self.log) if found[: len(entry)] == entry]
