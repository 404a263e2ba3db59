"""Compile every kernel for chips that are not here, and read what the assembler made of it.

    python benchmarks/cross_compile.py [--chips 80 89 90 100 120] [--json FILE]

Runs the real launches at the production shapes (Wan 1.3B, 480x832, bfloat16) on tensors
without storage, under a driver that only names a chip. Prints registers, shared memory and
spills, and exits 1 where a kernel spills, takes more shared memory than the chip has, or does
not use the chip's own matrix instruction.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# read when a kernel is defined
os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from afstream_kernels.triton import attention, attention_backward, norm, slots

CHIPS = (80, 89, 90, 100, 120)
# bytes of shared memory that one program may have
SHARED = {80: 166912, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
# the matrix instruction whose absence means that a kernel runs on a slower path
MATRIX = {
    80: "mma.sync",
    89: "mma.sync",
    90: "wgmma.mma_async",
    100: "tcgen05.mma",
    120: "mma.sync",
}
LAYERS, HEADS, HEAD_DIM, NUM_SLOTS = 30, 12, 128, 7
WIDTH = HEADS * HEAD_DIM
CHUNK_TOKENS, RECACHE_TOKENS, FRAME_TOKENS = 4680, 18720, 1560


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """One kernel as the assembler left it.

    Attributes:
        op: which launch it belongs to.
        kernel: its name.
        chip: compute capability, major * 10 + minor.
        registers: of a thread.
        shared_bytes: of a program.
        spilled_bytes: of a thread, registers that went to memory.
        warps: of a program.
        matrix: matrix instructions of the chip's own kind.
        fault: what is wrong with it, empty when nothing is.
    """

    op: str
    kernel: str
    chip: int
    registers: int
    shared_bytes: int
    spilled_bytes: int
    warps: int
    matrix: int
    fault: str


class NamedChip:
    """As much of a Triton driver as compiling needs: it says for which chip."""

    def __init__(self, chip: int) -> None:
        self._target = GPUTarget("cuda", chip, 32)

    def get_current_target(self) -> GPUTarget:
        """The chip."""
        return self._target

    def get_current_device(self) -> int:
        """Every chip is a device of its own, so that nothing is taken for compiled."""
        return int(self._target.arch)

    def get_current_stream(self, device: int) -> int:
        """There is none."""
        del device
        return 0


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor without storage."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def launches() -> Iterator[tuple[str, Callable[[], Any], bool]]:
    """Name, launch, and whether it must multiply matrices: all of them at production shapes."""
    keys = empty(1, NUM_SLOTS, CHUNK_TOKENS, HEADS, HEAD_DIM)
    table = empty(5, HEAD_DIM // 2, dtype=torch.float32)
    five = empty(5, dtype=torch.int32)
    for name, tokens, splits in (
        ("attention, whole", CHUNK_TOKENS, 1),
        ("attention, split", CHUNK_TOKENS, 2),
        ("attention, re-cache", RECACHE_TOKENS, 1),
    ):
        q = empty(1, tokens, HEADS, HEAD_DIM)
        yield (
            name,
            lambda q=q, n=splits: attention.forward(
                q, keys, keys, five, table, table, num_splits=n
            ),
            True,
        )
    for head_dim in (32, 64):
        q = empty(1, CHUNK_TOKENS, HEADS, head_dim)
        held = empty(1, NUM_SLOTS, CHUNK_TOKENS, HEADS, head_dim)
        turn = empty(5, head_dim // 2, dtype=torch.float32)
        yield (
            f"attention, head dim {head_dim}",
            lambda q=q, k=held, t=turn: attention.forward(q, k, k, five, t, t, num_splits=1),
            True,
        )

    q = empty(1, CHUNK_TOKENS, HEADS, HEAD_DIM)
    lse = empty(1, HEADS, CHUNK_TOKENS, dtype=torch.float32)
    wide = empty(*q.shape, dtype=torch.float32)
    yield (
        "attention backward, queries",
        lambda: attention_backward.to_queries(
            q, keys, keys, five, (table, table), q, lse, lse, wide
        ),
        True,
    )
    yield (
        "attention backward, own keys",
        lambda: attention_backward.to_own(q, q, q, q, lse, lse),
        True,
    )

    x, weight = empty(1, CHUNK_TOKENS, WIDTH), empty(WIDTH)
    tables = (empty(CHUNK_TOKENS, HEAD_DIM // 2, dtype=torch.float32),) * 2
    eps = 1e-6
    yield "norm + RoPE", lambda: norm.norm_rotate(x, weight, *tables, HEADS, eps), False
    yield (
        "norm + RoPE + write",
        lambda: norm.norm_rotate_write(x, x, weight, weight, *tables, keys, (0,), eps),
        False,
    )
    yield (
        "norm + RoPE backward",
        lambda: norm.norm_rotate_backward(x, weight, *tables, q, eps),
        False,
    )
    vector = empty(1, 3, 6, 1, WIDTH)[:, :, 0]
    yield (
        "LayerNorm + modulation",
        lambda: norm.modulate(x.view(1, 3, FRAME_TOKENS, WIDTH), vector, vector, eps),
        False,
    )
    held = empty(LAYERS, 1, NUM_SLOTS, CHUNK_TOKENS, HEADS, HEAD_DIM)
    one = table[:1]
    yield (
        "slot copy",
        lambda: slots.copy_slots(held, held, held, held, (0,), (1,), None, None),
        False,
    )
    yield (
        "slot copy, turned",
        lambda: slots.copy_slots(held, held, held, held, (1,), (0,), one, one),
        False,
    )


def compile_for(chip: int) -> list[Compiled]:
    """Every launch, compiled for one chip."""
    found: list[tuple[JITFunction[Any], Any]] = []
    run = JITFunction.run

    def only_compile(self: JITFunction[Any], *args: Any, **settings: Any) -> None:  # noqa: ANN401
        found.append((self, run(self, *args, **{**settings, "warmup": True})))

    driver.set_active(NamedChip(chip))  # pyright: ignore[reportArgumentType]
    JITFunction.run = only_compile  # pyright: ignore[reportAttributeAccessIssue]
    results: list[Compiled] = []
    try:
        for op, launch, matrix in launches():
            launch()
            results += [_read(op, chip, kernel, made, matrix=matrix) for kernel, made in found]
            found.clear()
    finally:
        JITFunction.run = run
    return results


def _read(op: str, chip: int, kernel: JITFunction[Any], made: Any, *, matrix: bool) -> Compiled:  # noqa: ANN401
    registers, spilled = _usage(made.asm["cubin"])
    products = made.asm["ptx"].count(MATRIX[chip])
    name = kernel.fn.__name__
    faults: list[str] = []
    if spilled:
        faults.append(f"spills {spilled} bytes")
    if made.metadata.shared > SHARED[chip]:
        faults.append(f"more shared memory than {SHARED[chip]} bytes")
    if matrix and name != attention.merge_kernel.fn.__name__ and not products:
        faults.append(f"no {MATRIX[chip]}")
    return Compiled(
        op=op,
        kernel=name,
        chip=chip,
        registers=registers,
        shared_bytes=made.metadata.shared,
        spilled_bytes=spilled,
        warps=made.metadata.num_warps,
        matrix=products,
        fault=", ".join(faults),
    )


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and spilled bytes of a thread, as cuobjdump reports them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", report)
    if usage is None:
        raise RuntimeError(f"cuobjdump says nothing of registers: {report}")
    registers, stack, local = map(int, usage.groups())
    return registers, stack + local


def as_text(results: Sequence[Compiled]) -> str:
    """For people."""
    lines = [
        f"{'op':29} {'kernel':27} {'sm':>3} {'warps':>5} {'regs':>4} {'shared':>7}"
        f" {'spills':>6} {'matrix':>6}"
    ]
    lines += [
        f"{row.op:29} {row.kernel:27} {row.chip:3} {row.warps:5} {row.registers:4}"
        f" {row.shared_bytes:7} {row.spilled_bytes:6} {row.matrix:6}"
        + (f"  FAULT: {row.fault}" if row.fault else "")
        for row in results
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print, keep; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description="Compile the kernels for chips not here.")
    parser.add_argument("--chips", type=int, nargs="+", choices=CHIPS, default=CHIPS)
    parser.add_argument("--json", type=Path, help="also write the table there")
    given = parser.parse_args(arguments)
    results = [row for chip in given.chips for row in compile_for(chip)]
    print(as_text(results))
    if given.json:
        record = {
            "triton": triton.__version__,
            "torch": torch.__version__,
            "kernels": [asdict(row) for row in results],
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if any(row.fault for row in results) else 0


if __name__ == "__main__":
    sys.exit(main())
