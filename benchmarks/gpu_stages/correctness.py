"""Every kernel on the device against its twin in float64 on the CPU, and a stream against itself.

A kernel passes when its error is at most twice that of PyTorch in the same dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from afstream.families.base import VideoModel
from afstream.families.opening import open_model
from afstream.families.pocket.family import POCKET
from afstream.kvcache.memories import memory_policy
from afstream.model.protocols import VideoDecoder
from afstream.spec import ModelSpec, StreamConfig
from afstream.stream import Stream
from afstream.timeline import Timeline
from afstream_kernels import (
    BackendName,
    add_up,
    copy_slots,
    modulate,
    norm_rope,
    norm_rope_write,
    norm_silu,
    rope_shift_tables,
    rope_tables,
    slot_attention,
    slot_attention_lse,
)

Outputs = tuple[Tensor, ...]
Operation = Callable[[str], Outputs]

POLICY = memory_policy("anchor", POCKET.lengths)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
HEAD_DIMS = (32, 64, 128)
# awkward on purpose: no length is a multiple of a tile
HEADS, TOKENS, SLOT_TOKENS, SLOTS = 3, 201, 201, 4
GRID = (3, 1, 67)
ALLOWED = 2.0
# rounding once more or less must not decide, so the twin's error counts as this at least
FLOORS = {torch.bfloat16: 2e-3, torch.float16: 3e-4, torch.float32: 2e-6}
PROMPTS = ("A red star drifts left over a meadow.", "The red star spins at night.")
SWITCH_CHUNK = 4
# the decoder's state begins afresh while the chunk before is still being decoded
CUT = "[6c] cut A blue heart drifts left."
AHEAD_CHUNKS = 12
DECODES = 8
SEED = 3
STRAY_SEEDS = (SEED, 4, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison.

    Attributes:
        name: what was compared.
        error: largest difference, relative to the largest value of the truth.
        allowed: the most that passes.
    """

    name: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """A NaN passes nothing."""
        return self.error <= self.allowed


def relative_error(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest of the outputs' errors."""
    errors = [
        float((a.detach().cpu().double() - b.detach().cpu()).abs().max() / b.detach().abs().max())
        for a, b in zip(found, truth, strict=True)
    ]
    return max(errors) if all(error == error for error in errors) else float("nan")


def check_kernels(device: torch.device) -> Iterator[Check]:
    """All operations, in all dtypes and head dims."""
    for dtype, head_dim in itertools.product(DTYPES, HEAD_DIMS):
        word = str(dtype).removeprefix("torch.")
        for name, operation in operations(dtype, head_dim, device).items():
            truth = operation("truth")
            twin = relative_error(operation("reference"), truth)
            yield Check(
                name=f"{name}, {word}, head dim {head_dim}",
                error=relative_error(operation("triton"), truth),
                allowed=ALLOWED * max(twin, FLOORS[dtype]),
            )


def operations(dtype: torch.dtype, head_dim: int, device: torch.device) -> dict[str, Operation]:
    """By name: what gives the outputs on `triton`, as `reference`, or the `truth` in float64."""
    torch.manual_seed(head_dim)
    width = HEADS * head_dim
    offsets = (18, 12, 6, 0)
    # slots are read out of order, and one of them is none
    slots = [2, -1, 0, 3]

    def tensors(way: str, *shapes: tuple[int, ...]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(len(shapes) * width)
        rounded = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
        if way == "truth":
            return [x.double() for x in rounded]
        return [x.to(device) for x in rounded]

    def tables(way: str, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return pair if way == "truth" else (pair[0].float().to(device), pair[1].float().to(device))

    def backend(way: str) -> BackendName:
        return "triton" if way == "triton" else "reference"

    shift = rope_shift_tables(offsets, head_dim=head_dim, dtype=torch.float64)
    table = rope_tables(0, grid=GRID, head_dim=head_dim, dtype=torch.float64)
    query, held = (1, TOKENS, HEADS, head_dim), (1, SLOTS, SLOT_TOKENS, HEADS, head_dim)
    tokens, layers = (1, TOKENS, width), (2, *held)

    def attention(way: str, num_splits: int = 1) -> Outputs:
        q, k, v = tensors(way, query, held, held)
        where = tables(way, shift)
        return slot_attention_lse(
            q, k, v, slots, *where, num_splits=num_splits, backend=backend(way)
        )

    def training(way: str) -> Outputs:
        q, own_k, own_v, k, v, grad = tensors(way, query, query, query, held, held, query)
        wanted = [x.requires_grad_() for x in (q, own_k, own_v)]
        where = tables(way, shift)
        own = (own_k, own_v)
        out = slot_attention(q, k, v, slots, *where, own, backend=backend(way))
        return (out, *torch.autograd.grad(out, wanted, grad))

    def norm(way: str) -> Outputs:
        x, weight, grad = tensors(way, tokens, (width,), query)
        wanted = [y.requires_grad_() for y in (x, weight)]
        out = norm_rope(
            x, weight, *tables(way, table), num_heads=HEADS, eps=1e-6, backend=backend(way)
        )
        return (out, *torch.autograd.grad(out, wanted, grad))

    def write(way: str) -> Outputs:
        q, k, q_weight, k_weight = tensors(way, tokens, tokens, (width,), (width,))
        keys = torch.zeros(held, dtype=q.dtype, device=q.device)
        out = norm_rope_write(
            q, k, q_weight, k_weight, *tables(way, table), keys, [2], eps=1e-6, backend=backend(way)
        )
        return out, keys

    def modulation(way: str) -> Outputs:
        x, vectors = tensors(way, (1, *GRID[:1], GRID[2], width), (1, GRID[0], 6, 1, width))
        shift, scale = vectors[:, :, 0], vectors[:, :, 1]
        return (modulate(x, shift, scale, eps=1e-6, backend=backend(way)),)

    def copy(way: str) -> Outputs:
        k, v = tensors(way, layers, layers)
        keys, values = torch.zeros_like(k), torch.zeros_like(v)
        pair = tables(way, shift)
        two = pair[0][:2], pair[1][:2]
        copy_slots(k, v, keys, values, [3, 0], [1, 2], two, backend=backend(way))
        return keys, values

    def frames(way: str) -> Outputs:
        video, before = (1, 3, GRID[2], 5, width), (1, 2, GRID[2], 5, width)
        x, residual, past, gain, bias = tensors(way, video, video, before, (width,), (width,))
        made = norm_silu(
            *(x, gain, past), bias=bias, residual=residual, keep_sum=True, backend=backend(way)
        )
        add_up(x, bias, residual, backend=backend(way))
        return (*made, x)

    return {
        "slot attention": attention,
        "slot attention, split": lambda way: attention(way, 3),
        "slot attention, forward and backward": training,
        "norm + RoPE, forward and backward": norm,
        "norm + RoPE + write": write,
        "LayerNorm + modulation": modulation,
        "sum + norm + SiLU": frames,
        "slot copy, shifted": copy,
    }


def check_streams(device: torch.device, num_chunks: int) -> Iterator[Check]:
    """A pocket stream with a switch on the device against one on the CPU.

    In float32 they must agree; in bfloat16 the device may stray from float32 twice as far as
    the CPU does at most. How far that is differs from seed to seed: a stream is chaotic.
    """
    cpu = torch.device("cpu")
    exact = play(cpu, torch.float32, "reference", num_chunks)
    strays = max(stray_of(num_chunks, seed) for seed in STRAY_SEEDS)
    for backend, graphs in itertools.product(("triton", "sdpa"), (False, True)):
        if graphs and device.type != "cuda":
            continue
        for dtype, allowed in ((torch.float32, 1e-3), (torch.bfloat16, ALLOWED * strays)):
            found = play(device, dtype, backend, num_chunks, graphs=graphs)
            word = str(dtype).removeprefix("torch.")
            yield Check(
                name=f"pocket stream, {backend}, {word}{', graphs' if graphs else ''}",
                error=relative_error([found], [exact.double()]),
                allowed=allowed,
            )


def stray_of(num_chunks: int, seed: int) -> float:
    """How far a stream in bfloat16 strays from float32, both on the CPU."""
    rounded, exact = (
        play(torch.device("cpu"), dtype, "reference", num_chunks, seed=seed)
        for dtype in (torch.bfloat16, torch.float32)
    )
    return relative_error([rounded], [exact.double()])


def check_ahead(device: torch.device, num_chunks: int) -> Iterator[Check]:
    """Frames of a stream that runs ahead against one that waits for each chunk: bit for bit.

    Once more with a decoder that takes its time, so that the main stream gets far enough ahead
    to overwrite what is not protected.
    """
    for slow, graphs in itertools.product((False, True), (False, True)):
        if graphs and device.type != "cuda":
            continue
        model = open_model(ModelSpec(device=str(device), dtype="float32"))
        if slow:
            model = replace(model, vae=SlowDecoder(model.vae))
        waits, ahead = (
            frames_of(model, timeline(num_chunks, CUT), graphs=graphs, ahead=ahead)
            for ahead in (False, True)
        )
        words = f"{', slow decoder' if slow else ''}{', graphs' if graphs else ''}"
        yield Check(
            name=f"pocket stream, ahead{words}",
            error=float((waits - ahead).abs().max()),
            allowed=0.0,
        )


class SlowDecoder:
    """Decodes every chunk several times over.

    Args:
        decoder: does the work.
    """

    def __init__(self, decoder: VideoDecoder) -> None:
        self._decoder = decoder

    def decode(self, latents: Tensor, state: Any) -> tuple[Tensor, Any]:  # noqa: ANN401
        """As `VideoDecoder.decode`; the last time counts."""
        for _ in range(DECODES - 1):
            self._decoder.decode(latents, state)
        return self._decoder.decode(latents, state)


def frames_of(model: VideoModel, played: Timeline, *, graphs: bool, ahead: bool) -> Tensor:
    """All frames [N, H, W, 3] of a stream, as signed integers."""
    stream = Stream(model, StreamConfig(seed=SEED, backend="sdpa", graphs=graphs, ahead=ahead))
    frames = [torch.from_numpy(chunk.frames) for chunk in stream.play(played)]
    return torch.cat(frames).to(torch.int16)


def timeline(num_chunks: int, *more: str) -> Timeline:
    """A switch on the way, and more cues."""
    first, second = PROMPTS
    lines = [f"@duration [{num_chunks}c]", f"0:00 {first}", f"[{SWITCH_CHUNK}c] {second}", *more]
    return Timeline.parse("\n".join(lines))


def play(
    device: torch.device,
    dtype: torch.dtype,
    backend: str,
    num_chunks: int,
    *,
    graphs: bool = False,
    seed: int = SEED,
) -> Tensor:
    """Clean latents [chunks, 1, c, C, h, w] of a pocket stream."""
    model = open_model(ModelSpec(device=str(device), dtype=str(dtype).removeprefix("torch.")))
    stream = Stream(model, StreamConfig(seed=seed, backend=backend, graphs=graphs))
    return torch.stack([chunk.latents.cpu() for chunk in stream.play(timeline(num_chunks))])
