"""Segment attention: of a chunk, of a re-cache, and of training, where it goes back as well."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from afstream.bench.kernels.attention_inputs import (
    AttentionInputs,
    attention_inputs,
    training_inputs,
)
from afstream.bench.kernels.attention_ways import (
    forwards,
    our_ways,
    public_ways,
    there_and_back,
)
from afstream.bench.kernels.case import KernelCase, KernelSettings, Outputs, Work
from afstream.bench.kernels.predictions import CHUNK
from afstream.bench.kernels.shapes import CHUNK_OFFSETS, RECACHE_CHUNKS, RECACHE_OFFSETS
from afstream_kernels import turn_tables
from afstream_kernels.reference import segment_attention as twin

# Query rows for which the twin runs at a time: its scores take rows * keys * heads values.
EXACT_ROWS = 128
# Products of T x K x C: scores and output; backwards the scores anew, the gradients of the
# weights and of the queries; and those of own keys and own values.
FORWARD, TO_QUERIES, TO_OWN = 2, 3, 2
# The twin rounds the scores, too, so in bfloat16 it needs more than a kernel does.
FORWARD_ROUNDINGS, GRADIENT_ROUNDINGS = 3, 6


def chunk_case(settings: KernelSettings) -> KernelCase[AttentionInputs]:
    """A chunk's queries over sink, junction, local window and the chunk itself."""
    return _inference_case(
        CHUNK,
        settings,
        CHUNK_OFFSETS,
        num_chunks=1,
        splits={"whole": 1, "split": 2},
        compiled_twin=True,
    )


def recache_case(settings: KernelSettings) -> KernelCase[AttentionInputs]:
    """A whole window's queries over sink and local window."""
    return _inference_case(
        "attention, re-cache",
        settings,
        RECACHE_OFFSETS,
        num_chunks=RECACHE_CHUNKS,
        splits={"whole": 1},
        # its scores would take tens of gigabytes
        compiled_twin=False,
    )


def training_case(settings: KernelSettings) -> KernelCase[AttentionInputs]:
    """Forwards and backwards: a chunk's own keys have gradients, those in slots have none."""
    offsets = CHUNK_OFFSETS[:-1]
    shape = settings.shape
    tokens, cached = shape.chunk_tokens, len(offsets) * shape.chunk_tokens
    products = (FORWARD + TO_QUERIES) * (tokens + cached) + TO_OWN * tokens
    # q, output, gradients of both; own keys and values and their gradients; slots
    moved = 8 * tokens + 2 * cached
    return KernelCase(
        name="attention, training",
        about=f"forward and backward, {tokens} queries, {tokens} own keys with gradient,"
        f" {cached} in slots, {shape.num_heads} heads of {shape.head_dim}",
        make_inputs=partial(training_inputs, settings, offsets=offsets, num_queries=tokens),
        ops={name: there_and_back(way) for name, way in our_ways(settings, {}).items()},
        expected=exact_gradients,
        alternatives={name: there_and_back(way) for name, way in public_ways(settings).items()},
        work=Work(
            flops=2 * products * tokens * shape.width,
            moved_bytes=moved * shape.width * settings.dtype.itemsize,
        ),
        tolerance=settings.tolerance(GRADIENT_ROUNDINGS),
    )


def _inference_case(
    name: str,
    settings: KernelSettings,
    offsets: tuple[int, ...],
    *,
    num_chunks: int,
    splits: dict[str, int],
    compiled_twin: bool,
) -> KernelCase[AttentionInputs]:
    shape = settings.shape
    queries, keys = num_chunks * shape.chunk_tokens, len(offsets) * shape.chunk_tokens
    rivals = public_ways(settings, compiled_twin=compiled_twin)
    return KernelCase(
        name=name,
        about=f"{queries} queries, {keys} keys in {len(offsets)} slots,"
        f" {shape.num_heads} heads of {shape.head_dim}",
        make_inputs=partial(attention_inputs, settings, offsets=offsets, num_queries=queries),
        ops={name: forwards(way) for name, way in our_ways(settings, splits).items()},
        expected=exact_output,
        alternatives={name: forwards(way) for name, way in rivals.items()},
        work=Work(
            flops=2 * FORWARD * queries * keys * shape.width,
            moved_bytes=2 * (queries + keys) * shape.width * settings.dtype.itemsize,
        ),
        tolerance=settings.tolerance(FORWARD_ROUNDINGS),
    )


def exact_output(inputs: AttentionInputs) -> Outputs:
    """The twin's output in float64, a few rows at a time."""
    held = _exact_slots(inputs)
    rows = inputs.q.double().split(EXACT_ROWS, dim=1)
    return (torch.cat([twin(some, *held)[0] for some in rows], dim=1),)


def exact_gradients(inputs: AttentionInputs) -> Outputs:
    """The twin's output and gradients in float64; those of own keys add up over the rows."""
    if inputs.own is None or inputs.grad is None:
        raise ValueError("these inputs have no gradients; make them by training_inputs")
    held = _exact_slots(inputs)
    key, value = (x.detach().double().requires_grad_() for x in inputs.own)
    to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
    outs: list[Tensor] = []
    to_q: list[Tensor] = []
    for rows, grad in zip(
        inputs.q.detach().double().split(EXACT_ROWS, dim=1),
        inputs.grad.double().split(EXACT_ROWS, dim=1),
        strict=True,
    ):
        some = rows.requires_grad_()
        with torch.enable_grad():
            out = twin(some, *held, (key, value))[0]
            found = torch.autograd.grad(out, (some, key, value), grad)
        outs.append(out.detach())
        to_q.append(found[0])
        to_key += found[1]
        to_value += found[2]
    return torch.cat(outs, dim=1), torch.cat(to_q, dim=1), to_key.detach(), to_value.detach()


def _exact_slots(inputs: AttentionInputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    device = inputs.q.device
    cos, sin = turn_tables(inputs.offsets, head_dim=inputs.q.shape[-1], dtype=torch.float64)
    slots = torch.tensor(inputs.slots, dtype=torch.int32, device=device)
    keys, values = inputs.keys.double(), inputs.values.double()
    return keys, values, slots, cos.to(device), sin.to(device)
