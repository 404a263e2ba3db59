"""Model calls captured once as CUDA graphs and replayed: one launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from afstream_kernels import on_device

Results = tuple[Tensor, ...]
Call = Callable[[Tensor], Results]


@dataclass(slots=True)
class _Captured:
    """A captured graph, its input buffer and its results' buffers.

    The call is kept because it holds what the graph reads, such as tables that a cache would free.
    """

    graph: Any
    source: Tensor
    results: Results
    call: Call


@dataclass(slots=True)
class Graphs:
    """The CUDA graphs of one rollout state, whose buffers stay at fixed addresses.

    The first call of a kind runs eagerly, which compiles and loads all that it needs. The second
    one is captured, and from then on the graph is replayed. Once a capture fails, all that is not
    captured yet runs eagerly for good.

    Attributes:
        num_new: calls so far that were not replayed, except after a failure.
        failure: why a capture failed; None as long as none has.
    """

    num_new: int = 0
    failure: str | None = None
    _seen: set[object] = field(default_factory=set[object])
    _captured: dict[object, _Captured] = field(default_factory=dict[object, _Captured])
    _pool: Any = None

    def run(self, kind: object, call: Call, source: Tensor, device: torch.device) -> Results:
        """Run `call(source)`, or replay it.

        Args:
            kind: calls of one kind do the same work on the same addresses.
            call: everything that it reads, except its argument, must stay at the same address.
            source: its argument, on any device.
            device: where the work is done.

        Returns:
            Its results; those of a replay are overwritten by the next one.
        """
        if kind in self._seen and kind not in self._captured and self.failure is None:
            self._try_to_capture(kind, call, source, device)
        captured = self._captured.get(kind)
        if captured is None:
            self.num_new += kind not in self._seen
            self._seen.add(kind)
            return call(source.to(device, non_blocking=True))
        captured.source.copy_(source, non_blocking=True)
        captured.graph.replay()
        return captured.results

    def fork(self) -> Graphs:
        """The graphs of a copied state, none yet; a failure would come again, and is remembered."""
        return Graphs(failure=self.failure)

    def _try_to_capture(
        self, kind: object, call: Call, source: Tensor, device: torch.device
    ) -> None:
        """Capture a call; a failure ends all capturing, because the stream can go on without it."""
        self.num_new += 1
        try:
            self._captured[kind] = self._capture(call, source, device)
        except Exception as error:  # noqa: BLE001  the same call may well run eagerly
            # what broke the call off comes first: ending the capture may fail on top of it
            if error.__context__ and not isinstance(error.__context__, Exception):
                raise error.__context__ from None
            self.failure = f"{type(error).__name__}: {error}".splitlines()[0]

    def _capture(self, call: Call, source: Tensor, device: torch.device) -> _Captured:
        """Capture a call; all graphs share one pool of memory, since only one runs at a time."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        place = torch.zeros_like(source, device=device)
        with (
            on_device(device),
            # torch leaves the capturing stream current where the end of a capture fails
            torch.cuda.stream(torch.cuda.current_stream(device)),
            torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=_capture_stream(device),
                # another thread may encode a cue meanwhile
                capture_error_mode="thread_local",
            ),
        ):
            results = call(place)
        return _Captured(graph, place, results, call)


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Where a device's calls are captured; torch's own is that of one device in a process."""
    return torch.cuda.Stream(device)
