"""Model calls captured once as CUDA graphs and replayed: one launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Results = tuple[Tensor, ...]
Call = Callable[[Tensor], Results]


@dataclass(slots=True)
class _Captured:
    """A captured graph, its input buffer and its results' buffers."""

    graph: Any
    source: Tensor
    results: Results


@dataclass(slots=True)
class Graphs:
    """The CUDA graphs of one rollout state, whose buffers stay at fixed addresses.

    The first call of a kind runs eagerly, which compiles and loads all that it needs. The second
    one is captured, and from then on the graph is replayed.

    Attributes:
        num_new: calls so far that were not replayed.
    """

    num_new: int = 0
    _seen: set[object] = field(default_factory=set[object])
    _captured: dict[object, _Captured] = field(default_factory=dict[object, _Captured])

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
        if kind not in self._seen:
            self._seen.add(kind)
            self.num_new += 1
            return call(source.to(device, non_blocking=True))
        if kind not in self._captured:
            self._captured[kind] = self._capture(call, source, device)
        captured = self._captured[kind]
        captured.source.copy_(source, non_blocking=True)
        captured.graph.replay()
        return captured.results

    def _capture(self, call: Call, source: Tensor, device: torch.device) -> _Captured:
        graph = torch.cuda.CUDAGraph()
        place = torch.zeros_like(source, device=device)
        # another thread may encode a cue meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = call(place)
        self.num_new += 1
        return _Captured(graph, place, results)
