"""Segment attention under other tiles and splits than those chosen, to choose better ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from afstream_kernels.host import device_ints
from afstream_kernels.triton import attention
from afstream_kernels.triton.tiles import Tile
from kernel_bench import kernel_settings
from kernel_bench.attention import attention_inputs
from kernel_bench.sizes import CHUNK_OFFSETS
from kernel_bench.timing import GpuTimer, time_on_cpu

SPLITS = (1, 2, 3)
TILES = (
    *(
        Tile(*sizes, descriptors=True, carried=True)
        for sizes in (
            (128, 128, 8, 2),
            (128, 128, 8, 3),
            (128, 64, 8, 2),
            (128, 64, 8, 3),
            (128, 64, 4, 3),
            (64, 128, 4, 2),
            (64, 64, 4, 3),
        )
    ),
    # what a carried query gains
    Tile(128, 128, 8, 2, descriptors=True),
)
TINY = (Tile(32, 32, 4, 1, descriptors=True, carried=True),)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileTime:
    """One tile and one number of splits.

    Attributes:
        tile: see `Tile`.
        splits: how often the keys are cut.
        ms: median of one layer's attention; None where it did not run.
        note: why not.
    """

    tile: dict[str, Any]
    splits: int
    ms: float | None
    note: str = ""


def time_tiles(device: torch.device, size: str) -> Iterator[TileTime]:
    """A chunk's attention at a size of the kernel bench, in every way; what fails is told."""
    on_gpu = device.type == "cuda"
    settings = kernel_settings(device.type, size)
    inputs = attention_inputs(settings, CHUNK_OFFSETS, settings.shape.chunk_tokens)
    timer = GpuTimer(device) if on_gpu else time_on_cpu
    slots = device_ints(inputs.slots, device)
    for tile in TILES if on_gpu else TINY:
        for splits in SPLITS if on_gpu else SPLITS[:1]:

            def run(tile: Tile = tile, splits: int = splits) -> object:
                held = inputs.q, inputs.keys, inputs.values, slots, *inputs.shift
                return attention.forward(*held, num_splits=splits, tile=tile)

            named = tile._asdict()
            try:
                yield TileTime(tile=named, splits=splits, ms=timer(run).median_ms)
            except Exception as error:  # noqa: BLE001  others may still run
                note = f"{type(error).__name__}: {error}"[:200]
                yield TileTime(tile=named, splits=splits, ms=None, note=note)


def as_rows(found: list[TileTime]) -> list[dict[str, Any]]:
    """Fastest first."""
    return [asdict(one) for one in sorted(found, key=lambda one: one.ms or float("inf"))]
