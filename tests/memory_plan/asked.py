"""Settings of a stream, as far as its memory depends on them."""

from typing import Any

from afstream.geometry import Geometry
from afstream.spec import ModelSpec, StreamConfig


def ask(
    *,
    prompts: int = 0,
    size: Geometry | None = None,
    backend: str | None = "sdpa",
    graphs: bool = True,
    memory: str = "anchor",
    gpu_memory: int | None = None,
    **spec: Any,
) -> StreamConfig:
    """A stream's config; `prompts` are so many, and the rest says which model."""
    return StreamConfig(
        model=ModelSpec(**spec),
        size=size and (size.width_px, size.height_px),
        memory=memory,
        backend=backend,
        graphs=graphs,
        prompts=tuple(map(str, range(prompts))),
        gpu_memory=gpu_memory,
    )
