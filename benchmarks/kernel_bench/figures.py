"""The figures of the kernels as tables."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kernel_bench.report import CaseResult, KernelReport, KernelRow

# Of a file or a pipe, which has no width of its own.
PLAIN_WIDTH = 120
MOST_DIGITS = 4
CPU_NOTE = (
    "Measured on a CPU: these timings mean nothing for a GPU. Only the reference path was timed;"
    " the kernels need a GPU."
)
CHECKED_NOTE = "Triton's interpreter ran the kernels: they were checked, and nothing was timed."


def show_kernels(report: KernelReport, appended: Path | None) -> None:
    """Write tables to standard output, and where the figures were kept."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(highlight=False, markup=False, width=width)
    console.print("\n".join(describe(report)), soft_wrap=True)
    for case in report.cases:
        console.print()
        console.print(heading(case), soft_wrap=True)
        console.print(case_table(case))
    console.print()
    for remark in remarks(report):
        console.print(remark, soft_wrap=True)
    if appended:
        console.print(f"Appended to {appended}", soft_wrap=True)


def describe(report: KernelReport) -> list[str]:
    """The sizes, the device and the software."""
    machine, gpu, ceilings = report.machine, report.gpu, report.ceilings
    where = gpu["name"] if gpu else f"{machine.cpu}, {machine.threads} threads"
    lines = [
        f"Kernels at size {report.shape.name}, {report.dtype}, on {where}",
        f"torch {machine.torch}, Triton {machine.triton or 'not installed'}, Python"
        f" {machine.python}, afstream {machine.afstream}"
        + (f" at {machine.commit}" if machine.commit else ""),
    ]
    if gpu:
        states = [
            f"{value:.0f} {unit}"
            for value, unit in (
                (gpu["sm_mhz"], "MHz"),
                (gpu["memory_mhz"], "MHz memory"),
                (gpu["power_w"], "W"),
                (gpu["power_limit_w"], "W allowed"),
            )
            if value is not None
        ]
        lines.append("Under load: " + (", ".join(states) or "nvidia-smi does not tell"))
    if ceilings:
        lines.append(
            f"Ceilings here: {ceilings.tflops:.0f} TFLOP/s, {ceilings.terabytes_per_s:.2f} TB/s"
        )
    return lines


def heading(case: CaseResult) -> Text:
    """The operation, its sizes, and its floor where ceilings were measured."""
    text = Text(case.name, "bold")
    text.append(f"  {case.about}", "dim")
    if case.floor_ms is not None:
        here, h200 = milliseconds(case.floor_ms), milliseconds(case.h200_floor_ms)
        text.append(f"; floor {here} ms, on an H200 {h200} ms", "dim")
    return text


def case_table(case: CaseResult) -> Table:
    """One line for each implementation; a figure that none of them has gets no column."""
    columns = {
        "ms": [milliseconds(row.timing.median_ms) if row.timing else "" for row in case.rows],
        "x": [number(row.times_ours, ".2f") for row in case.rows],
        "error": [number(row.error, ".0e") for row in case.rows],
    }
    if case.floor_ms is not None:
        columns["TFLOP/s" if case.flops else "GB/s"] = [
            number(row.tflops if case.flops else row.gb_per_s, ".0f") for row in case.rows
        ]
        columns["of floor"] = [number(row.share_of_floor, ".0%") for row in case.rows]
    shown = {name: values for name, values in columns.items() if any(values)}
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row, *values in zip(case.rows, *shown.values(), strict=True):
        style = "bold red" if row.ours and row.status in ("wrong", "failed") else None
        table.add_row(row.name, *values, remark(row), style=style)
    return table


def remark(row: KernelRow) -> str:
    """Why there is no time, or what time was predicted."""
    if row.status != "timed":
        word = row.status.upper() if row.status in ("wrong", "failed") else row.status
        return word if row.status == "checked" else f"{word}: {row.note}"
    if row.prediction is None:
        return ""
    low, high = row.prediction.low_ms, row.prediction.high_ms
    text = "predicted " + " to ".join(dict.fromkeys((milliseconds(low), milliseconds(high))))
    aim = row.prediction.aim_ms
    return text if aim is None else f"{text}, aim {milliseconds(aim)}"


def remarks(report: KernelReport) -> list[str]:
    """What a reader of the figures must know."""
    notes = [
        "x: how many times as long as the first line, which is what the engine calls. error: the"
        " largest of a row, relative to the rows' root mean square."
    ]
    statuses = {row.status for case in report.cases for row in case.rows}
    if "checked" in statuses:
        notes.append(CHECKED_NOTE)
    elif report.gpu is None:
        notes.append(CPU_NOTE)
    if report.faults:
        notes.append("WRONG, and so not timed: " + "; ".join(report.faults))
    return notes


def milliseconds(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), MOST_DIGITS)}f}"


def number(value: float | None, form: str) -> str:
    """A figure, or an empty text."""
    return "" if value is None else format(value, form)
