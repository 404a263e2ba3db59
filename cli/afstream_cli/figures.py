"""The figures of a whole stream as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from afstream.text import printable

if TYPE_CHECKING:
    from afstream.bench import Measurement

MIB = 2**20
PARTS = {
    "denoise": "denoise steps",
    "recache": "re-cache at a switch",
    "context": "context pass",
    "decode": "decode",
    "consume": "write",
    "all": "whole chunk",
}
CPU_NOTE = "Measured on a CPU: these figures say nothing about a GPU."


def show_figures(result: Measurement) -> None:
    """Write tables to standard output."""
    console = Console(highlight=False, markup=False)
    console.print("\n".join(map(printable, describe(result))), soft_wrap=True)
    if not result.chunks:
        console.print("\nNothing was measured: the first chunk is the warm-up.")
        return
    for table in (speed_table(result), parts_table(result), stretch_table(result)):
        console.print()
        console.print(table)
    console.print()
    for remark in remarks(result):
        console.print(remark, soft_wrap=True)


def describe(result: Measurement) -> list[str]:
    """The model, the machine, and how much was measured."""
    machine, model = result.machine, result.model
    width, height = result.size
    commit = f" ({machine.commit})" if machine.commit else ""
    threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
    return [
        f"{model['name']}, {width}x{height} at {result.fps} fps, memory {model['memory']},"
        f" {model['dtype']} on {model['device']}, kernels {model['backend']}",
        f"{machine.gpu or machine.cpu}, {machine.cores} cores, {threads},"
        f" torch {machine.torch}, afstream {machine.afstream}{commit}",
        f"{result.frames / result.fps:.1f} s of video in {result.wall_s:.1f} s,"
        f" {result.switch_ms.count} switches",
    ]


def speed_table(result: Measurement) -> Table:
    """Rates and latencies."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    rates, first = result.rates, result.first_frame
    rows = [
        (
            "end to end",
            f"{rates.end_to_end:.1f} fps",
            f"{rates.times_real_time:.2f} x real time",
        ),
        ("denoising", f"{rates.denoise:.1f} fps", "with context passes and re-caches"),
        ("decoding", f"{rates.decode:.1f} fps", ""),
        ("outside the model", f"{result.outside_model:.1%}", "of the time"),
        (
            "first frame, cold",
            f"{first.open_ms + first.cold_ms:.0f} ms",
            f"of which {first.open_ms:.0f} ms to load the model",
        ),
    ]
    if first.warm_up_ms > first.cold_ms:
        rows.append(
            ("warm-up", f"{first.warm_up_ms:.0f} ms", "chunks that compiled or captured, not timed")
        )
    if first.warm_ms is not None:
        rows.append(("first frame, warm", f"{first.warm_ms:.0f} ms", "a cut in a running stream"))
    if result.switch_ms.count:
        rows.append(
            (
                "switch",
                f"{result.switch_ms.median:.0f} ms",
                f"request to first new frame; at most {result.switch_ms.max:.0f} ms",
            )
        )
    if result.resident_bytes is not None:
        rows.append(("peak memory", mib(result.resident_bytes), "of the process"))
    if result.device_bytes is not None:
        rows.append(("peak GPU memory", mib(result.device_bytes), "of tensors"))
    estimate = result.memory_estimate
    if estimate is not None:
        rows.append(
            (
                "estimated GPU memory",
                mib(estimate["tensor_bytes"]),
                f"of tensors; {mib(estimate['peak_bytes'])} must be free before loading",
            )
        )
    for row in rows:
        table.add_row(*row)
    return table


def parts_table(result: Measurement) -> Table:
    """Milliseconds that each part of a chunk took."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("ms of a chunk", no_wrap=True)
    for heading in ("median", "p95", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for part, name in PARTS.items():
        spread = result.parts_ms[part]
        if spread.count:
            values = (spread.median, spread.p95, spread.max)
            table.add_row(name, *(f"{value:.1f}" for value in values))
    return table


def stretch_table(result: Measurement) -> Table:
    """Speed and memory along the video."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    memory = ["memory"] if result.device_bytes is None else ["memory", "GPU memory"]
    for heading in ("from", "fps", "slowest chunk", *memory):
        table.add_column(heading, justify="right", no_wrap=True)
    for stretch in result.stretches:
        held = (stretch.resident_bytes, stretch.device_bytes)
        table.add_row(
            f"{stretch.start_s:.1f} s",
            f"{stretch.frames_per_s:.1f}",
            f"{stretch.slowest_chunk_ms:.0f} ms",
            *(mib(count) for count in held[: len(memory)]),
        )
    return table


def remarks(result: Measurement) -> list[str]:
    """What a reader of the figures must know."""
    machine = result.machine
    notes = [CPU_NOTE] if machine.gpu is None else []
    if machine.load is not None and machine.load >= machine.cores / 2:
        notes.append(
            f"The machine was busy when it began (load {machine.load:.1f} on {machine.cores}"
            " cores): measure again when it is quiet."
        )
    return notes


def mib(count: int | None) -> str:
    """Bytes as MiB."""
    return "" if count is None else f"{count / MIB:.0f} MiB"
