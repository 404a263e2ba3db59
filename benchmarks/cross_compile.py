"""Compile every kernel for chips that are not here, and read what the assembler made of it.

    python benchmarks/cross_compile.py [--chips 80 89 90 100 120] [--json FILE]

Runs the real launches at the production shapes (Wan 1.3B, 480x832, bfloat16) on tensors
without storage, under a driver that only names a chip. Prints registers, shared memory and
spills, and exits 1 where a kernel spills, takes more shared memory than the chip has, does not
use the chip's own matrix instruction, makes these instructions wait for each other, or moves less
than 16 bytes at a time where bytes count.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

# read when a kernel is defined
os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from afstream_kernels.triton import attention, attention_backward, frames, merge, norm
from afstream_kernels.triton import slots as slot_copies

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
# how ptxas tells, among much else, that matrix instructions wait for each other
SERIALIZED = re.compile(r"\((C75\d\d)\)")
LAYERS, HEADS, HEAD_DIM = 30, 12, 128
NUM_SLOTS, NUM_VISIBLE = 7, 5
WIDTH = HEADS * HEAD_DIM
CHUNK_TOKENS, RECACHE_TOKENS, FRAME_TOKENS = 4680, 18720, 1560
# video frames of a chunk, rows, columns and channels of the decoder's stages
DECODER_SIZES = ((6, 120, 208, 384), (12, 240, 416, 192), (12, 480, 832, 96))


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
        wide: reads and writes of 16 bytes.
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
    wide: int
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


class Launch(NamedTuple):
    """One launch at production shapes.

    Attributes:
        op: its name.
        run: launches it.
        matrix: it must use the chip's own matrix instruction.
        wide: it must read and write 16 bytes at a time.
    """

    op: str
    run: Callable[[], object]
    matrix: bool = False
    wide: bool = False


def launches() -> Iterator[Launch]:
    """All of them."""
    yield from attention_launches()
    yield from backward_launches()
    yield from row_launches()
    yield from frame_launches()
    yield from copy_launches()


def attention_launches() -> Iterator[Launch]:
    """Whole and split, of a chunk and of a re-cache, and what else the ops allow."""
    for name, tokens, head_dim, dtype, splits in (
        ("attention, whole", CHUNK_TOKENS, HEAD_DIM, torch.bfloat16, 1),
        ("attention, split", CHUNK_TOKENS, HEAD_DIM, torch.bfloat16, 2),
        ("attention, re-cache", RECACHE_TOKENS, HEAD_DIM, torch.bfloat16, 1),
        ("attention, head dim 32", CHUNK_TOKENS, 32, torch.bfloat16, 1),
        ("attention, head dim 64", CHUNK_TOKENS, 64, torch.bfloat16, 1),
        ("attention, float16", CHUNK_TOKENS, HEAD_DIM, torch.float16, 1),
        ("attention, float32", CHUNK_TOKENS, HEAD_DIM, torch.float32, 1),
    ):
        q = empty(1, tokens, HEADS, head_dim, dtype=dtype)
        held = empty(1, NUM_SLOTS, CHUNK_TOKENS, HEADS, head_dim, dtype=dtype)
        shift = empty(NUM_VISIBLE, head_dim // 2, dtype=torch.float32)
        slots = empty(NUM_VISIBLE, dtype=torch.int32)
        run = partial(attention.forward, q, held, held, slots, shift, shift, num_splits=splits)
        # small tiles of three tf32 products use the older instruction on every chip
        yield Launch(name, run, matrix=dtype != torch.float32)


def backward_launches() -> Iterator[Launch]:
    """To the queries, and to the block's own keys and values."""
    lse = empty(1, HEADS, CHUNK_TOKENS, dtype=torch.float32)
    shift = empty(NUM_VISIBLE, HEAD_DIM // 2, dtype=torch.float32)
    slots = empty(NUM_VISIBLE, dtype=torch.int32)
    for dtype in (torch.bfloat16, torch.float32):
        q = empty(1, CHUNK_TOKENS, HEADS, HEAD_DIM, dtype=dtype)
        held = empty(1, NUM_SLOTS, CHUNK_TOKENS, HEADS, HEAD_DIM, dtype=dtype)
        summed = empty(*q.shape, dtype=torch.float32)
        word = "" if dtype == torch.bfloat16 else ", float32"
        matrix = dtype != torch.float32
        to_queries = partial(
            attention_backward.to_queries,
            *(q, held, held, slots, (shift, shift), q, lse, lse, summed),
        )
        yield Launch(f"backward, queries{word}", to_queries, matrix=matrix)
        to_own = partial(attention_backward.to_own, q, q, q, q, lse, lse)
        yield Launch(f"backward, own keys{word}", to_own, matrix=matrix)


def row_launches() -> Iterator[Launch]:
    """What goes token by token."""
    x, weight, eps = empty(1, CHUNK_TOKENS, WIDTH), empty(WIDTH), 1e-6
    heads = empty(1, CHUNK_TOKENS, HEADS, HEAD_DIM)
    keys = empty(1, NUM_SLOTS, CHUNK_TOKENS, HEADS, HEAD_DIM)
    tables = (empty(CHUNK_TOKENS, HEAD_DIM // 2, dtype=torch.float32),) * 2
    forward = partial(norm.norm_rope, x, weight, *tables, HEADS, eps)
    yield Launch("norm + RoPE", forward, wide=True)
    write = partial(norm.norm_rope_write, x, x, weight, weight, *tables, keys, (0,), eps)
    yield Launch("norm + RoPE + write", write, wide=True)
    backward = partial(norm.norm_rope_backward, x, weight, *tables, heads, eps)
    yield Launch("norm + RoPE backward", backward, wide=True)
    chunk = x.view(1, CHUNK_TOKENS // FRAME_TOKENS, FRAME_TOKENS, WIDTH)
    vector = empty(1, CHUNK_TOKENS // FRAME_TOKENS, 6, 1, WIDTH)[:, :, 0]
    modulation = partial(norm.modulate, chunk, vector, vector, eps)
    yield Launch("LayerNorm + modulation", modulation, wide=True)


def frame_launches() -> Iterator[Launch]:
    """What Wan's video decoder runs before its convolutions, at each of its widths."""
    for frame_count, height, width, channels in DECODER_SIZES:
        x, vector = empty(1, frame_count, height, width, channels), empty(channels)
        past = empty(1, 2, height, width, channels)
        plain = partial(frames.norm_silu, x, vector, past, vector, None, None)
        yield Launch(f"norm + SiLU, {channels}", plain, wide=True)
        adding = partial(frames.norm_silu, x, vector, past, vector, x, x)
        yield Launch(f"sum + norm + SiLU, {channels}", adding, wide=True)
        yield Launch(f"sum, {channels}", partial(frames.add_up, x, vector, x), wide=True)


def copy_launches() -> Iterator[Launch]:
    """Store, and the gathered KV."""
    held = (empty(LAYERS, 1, NUM_SLOTS, CHUNK_TOKENS, HEADS, HEAD_DIM),) * 4
    shift = (empty(1, HEAD_DIM // 2, dtype=torch.float32),) * 2
    plain = partial(slot_copies.copy_slots, *held, (0,), (1,), None, None)
    yield Launch("slot copy", plain, wide=True)
    yield Launch(
        "slot copy, shifted", partial(slot_copies.copy_slots, *held, (1,), (0,), *shift), wide=True
    )


def compile_for(chip: int, wanted: Iterable[Launch]) -> list[Compiled]:
    """Launches, compiled for one chip."""
    found: list[tuple[JITFunction[Any], Any]] = []
    run = JITFunction.run

    def only_compile(self: JITFunction[Any], *args: Any, **settings: Any) -> None:  # noqa: ANN401
        found.append((self, run(self, *args, **{**settings, "warmup": True})))

    driver.set_active(NamedChip(chip))  # pyright: ignore[reportArgumentType]
    JITFunction.run = only_compile  # pyright: ignore[reportAttributeAccessIssue]
    results: list[Compiled] = []
    try:
        for launch in wanted:
            launch.run()
            results += [_read(launch, chip, kernel, made) for kernel, made in found]
            found.clear()
    finally:
        JITFunction.run = run
    return results


def _read(launch: Launch, chip: int, kernel: JITFunction[Any], made: Any) -> Compiled:  # noqa: ANN401
    registers, spilled = _usage(made.asm["cubin"])
    name, ptx = kernel.fn.__name__, made.asm["ptx"]
    # the merge of split keys multiplies nothing
    needed = MATRIX[chip] if launch.matrix and name != merge.merge_kernel.fn.__name__ else ""
    wide = {way: len(re.findall(rf"\b{way}\.global\S*\.v4\.b32", ptx)) for way in ("ld", "st")}
    faults: list[str] = []
    if spilled:
        faults.append(f"spills {spilled} bytes")
    if made.metadata.shared > SHARED[chip]:
        faults.append(f"more shared memory than {SHARED[chip]} bytes")
    if needed not in ptx:
        faults.append(f"no {needed}")
    if needed == MATRIX[90]:
        faults += [f"{code}: matrix instructions are serialized" for code in _serialized(chip, ptx)]
    if launch.wide and not all(wide.values()):
        faults.append("reads or writes less than 16 bytes at a time")
    return Compiled(
        op=launch.op,
        kernel=name,
        chip=chip,
        registers=registers,
        shared_bytes=made.metadata.shared,
        spilled_bytes=spilled,
        warps=made.metadata.num_warps,
        matrix=ptx.count(MATRIX[chip]),
        wide=sum(wide.values()),
        fault=", ".join(faults),
    )


def _serialized(chip: int, ptx: str) -> list[str]:
    """Codes by which ptxas says that matrix instructions wait for each other, each once."""
    target = re.search(r"^\.target (\w+)", ptx, flags=re.MULTILINE)
    if target is None:
        raise RuntimeError("the PTX does not say for which chip it is")
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        # Triton's own run of it tells nothing, and is left out where the kernel is cached
        command = [get_ptxas(chip).path, "-v", f"--gpu-name={target[1]}", file.name]
        made = subprocess.run(
            [*command, "-o", os.devnull], capture_output=True, check=True, text=True
        )
    return sorted(set(SERIALIZED.findall(made.stdout + made.stderr)))


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and spilled bytes of a thread."""
    usage = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", _dump(cubin, "-res-usage"))
    if usage is None:
        raise RuntimeError("cuobjdump says nothing of registers")
    registers, stack, local = map(int, usage.groups())
    # ptxas 12.9 zeroes 8 bytes before each TMA load of 12.0: what is never read back is no spill
    read_back = stack + local > 0 and re.search(r"\bLDL\b", _dump(cubin, "-sass"))
    return registers, stack + local if read_back else 0


def _dump(cubin: bytes, what: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), what, file.name]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def as_text(results: Sequence[Compiled]) -> str:
    """For people."""
    lines = [
        f"{'op':29} {'kernel':27} {'sm':>3} {'warps':>5} {'regs':>4} {'shared':>7}"
        f" {'spills':>6} {'matrix':>6} {'16-byte':>7}"
    ]
    lines += [
        f"{row.op:29} {row.kernel:27} {row.chip:3} {row.warps:5} {row.registers:4}"
        f" {row.shared_bytes:7} {row.spilled_bytes:6} {row.matrix:6} {row.wide:7}"
        + (f"  FAULT: {row.fault}" if row.fault else "")
        for row in results
    ]
    return "\n".join(lines)


def _keep(path: Path, results: Sequence[Compiled]) -> None:
    """Put a run beside those of other versions, in the place of an earlier one of these."""
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    kept: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    runs = [run for run in kept if not run.items() >= versions.items()]
    runs.append(versions | {"kernels": [asdict(row) for row in results]})
    runs.sort(key=lambda run: str(run["triton"]))
    path.write_text(json.dumps(runs, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print, keep; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description="Compile the kernels for chips not here.")
    parser.add_argument("--chips", type=int, nargs="+", choices=CHIPS, default=CHIPS)
    parser.add_argument(
        "--json", type=Path, help="also keep the table there, beside other versions'"
    )
    given = parser.parse_args(arguments)
    results = [row for chip in given.chips for row in compile_for(chip, launches())]
    print(as_text(results))
    if given.json:
        _keep(given.json, results)
    return 1 if any(row.fault for row in results) else 0


if __name__ == "__main__":
    sys.exit(main())
