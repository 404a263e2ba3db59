"""Everything that only a GPU can tell, in one command of at most eight minutes.

    python benchmarks/gpu_check.py [--out FILE.json] [--minutes 8] [--only STAGE ...]

In this order: every kernel against its twin on the CPU, a pocket stream against one on the
CPU, each kernel timed beside what one would run without it, one chunk of a randomly
initialised 1.3B backbone at 480x832 in every way it can be run, attention under other tiles
than those chosen. Each result stands beside its prediction. Needs torch, triton, numpy, einops
and safetensors, and nothing installed of afstream itself. Exits 1 where something is wrong; a
stage that fails does not end the others.

Without a GPU the same stages run on a tiny model in Triton's interpreter, as far as they can:
nothing that they time means anything.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("src", "kernels", "benchmarks")]

import torch

# read when a kernel is defined: compiled for a GPU, interpreted on a CPU
on_cpu = "cpu" in sys.argv or not torch.cuda.is_available()
os.environ.setdefault("TRITON_INTERPRET", "1" if on_cpu else "0")

from afstream.bench.machine import Machine
from afstream_kernels.vendor import attention_order
from gpu_stages.correctness import (
    AHEAD_CHUNKS,
    Check,
    check_ahead,
    check_kernels,
    check_streams,
)
from gpu_stages.predictions import predictions
from gpu_stages.profiling import profiled
from gpu_stages.scale import PRODUCTION, TINY, Scale
from gpu_stages.tiles import as_rows, time_tiles
from gpu_stages.wan_chunk import ChunkTimes, time_all
from kernel_bench import run_kernel_bench

# seconds that each stage may take on a GPU; none begins that would not end in time
STAGES = {"kernels": 90, "stream": 45, "bench": 75, "chunk": 150, "tiles": 60, "compiled": 120}
VARIANT_S = 75
RESULTS = ROOT / "benchmarks" / "results"


class GpuCheck:
    """The stages, and what they found so far.

    Args:
        device: where to run.
        scale: sizes of the model stage.
        minutes: all must have ended after these.
    """

    def __init__(self, device: torch.device, scale: Scale, minutes: float) -> None:
        self._device = device
        self._scale = scale
        self._began = time.monotonic()
        self._minutes = minutes
        self.found: dict[str, Any] = {
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": asdict(Machine.here(device)),
            # asked before any stage, so that all of them get the same version of attention
            "attention_order": attention_order(device),
            "faults": [],
            "skipped": [],
        }

    def run(self, stages: Sequence[str], keep: Callable[[dict[str, Any]], None]) -> None:
        """Run stages, keeping what is known after each of them."""
        work = {
            "kernels": self._kernels,
            "stream": self._stream,
            "bench": lambda: self._bench("bench", compiled=False),
            "chunk": self._chunk,
            "tiles": self._tiles,
            # by far the slowest to prepare, and of the least interest
            "compiled": lambda: self._bench("compiled", compiled=True),
        }
        for stage in stages:
            if not self._has_time_for(STAGES[stage]):
                self._skip(stage)
                continue
            began = self._spent_s()
            print(f"\n{stage}", flush=True)
            try:
                work[stage]()
            except Exception as error:  # noqa: BLE001  the other stages can still be run
                traceback.print_exc()
                self._fault(f"{stage}: {type(error).__name__}: {error}")
            self.found.setdefault("seconds", {})[stage] = round(self._spent_s() - began, 1)
            keep(self.found)
        self.found["predictions"] = predictions(self.found)
        keep(self.found)

    def _kernels(self) -> None:
        self._checks("kernels", check_kernels(self._device))

    def _stream(self) -> None:
        self._checks("stream", check_streams(self._device, self._scale.stream_chunks))
        self._checks("stream", check_ahead(self._device, AHEAD_CHUNKS))

    def _checks(self, stage: str, checks: Iterator[Check]) -> None:
        rows = self.found.setdefault(stage, [])
        for check in checks:
            rows.append(asdict(check) | {"passed": check.passed})
            verdict = "ok" if check.passed else "WRONG"
            print(
                f"  {check.name}: {check.error:.1e} of {check.allowed:.1e}  {verdict}", flush=True
            )
            if not check.passed:
                self._fault(f"{check.name} is off by {check.error:.1e}")

    def _bench(self, stage: str, *, compiled: bool) -> None:
        report = run_kernel_bench(self._device.type, self._scale.size, compiled=compiled)
        self.found[stage] = report.as_data()
        for fault in report.faults:
            self._fault(f"{stage}, {fault}")
        for case in report.cases:
            floor = "" if case.floor_ms is None else f", floor {case.floor_ms:.4f} ms"
            print(f"  {case.name}{floor}", flush=True)
            for row in case.rows:
                ms = f"{row.timing.median_ms:.4f} ms" if row.timing else row.note
                print(f"    {row.name}: {ms}", flush=True)

    def _chunk(self) -> None:
        rows = self.found.setdefault("chunk", [])
        for times in time_all(self._scale, self._device, profiled):
            if not isinstance(times, ChunkTimes):
                name, error = times
                self._fault(f"chunk, {name}: {type(error).__name__}: {error}")
                continue
            rows.append(asdict(times) | {"peak_share": times.peak_share})
            share = times.peak_share
            memory = "" if share is None else f", memory {share:.2f} of the estimate"
            switch = "" if times.recache_ms is None else f", switch {times.recache_ms:.1f} ms"
            print(
                f"  {times.name}: {times.chunk_ms:.1f} ms a chunk, {times.fps:.1f} fps{switch},"
                f" first chunk {times.cold_ms:.0f} ms, warm-up {times.warm_up_ms:.0f} ms{memory}",
                flush=True,
            )
            if not times.finite:
                self._fault(f"chunk, {times.name}: latents are not finite")
            # on a CPU the twins run, which copy
            for fault in times.profile.get("faults", ()) if self._device.type == "cuda" else ():
                self._fault(f"chunk, {times.name}: {fault} in a steady chunk")
            if not self._has_time_for(VARIANT_S):
                self._skip(f"ways to run a chunk after {times.name}")
                return

    @torch.no_grad()
    def _tiles(self) -> None:
        rows = as_rows(list(time_tiles(self._device, self._scale.size)))
        self.found["tiles"] = rows
        for row in rows:
            ms = row["note"] if row["ms"] is None else f"{row['ms']:.4f} ms"
            print(f"  {tuple(row['tile'].values())}, {row['splits']} splits: {ms}", flush=True)

    def _has_time_for(self, seconds: float) -> bool:
        return self._device.type == "cpu" or self._spent_s() + seconds <= 60 * self._minutes

    def _skip(self, what: str) -> None:
        print(f"  no time is left for: {what}", flush=True)
        self.found["skipped"].append(what)

    def _fault(self, words: str) -> None:
        print(f"  FAULT: {words}", flush=True)
        self.found["faults"].append(words)

    def _spent_s(self) -> float:
        return time.monotonic() - self._began


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages and write one JSON file."""
    parser = argparse.ArgumentParser(description="Check and time everything on a GPU.")
    parser.add_argument("--out", type=Path, help="JSON file [default: one in benchmarks/results]")
    parser.add_argument("--minutes", type=float, default=8.0, help="all must have ended by then")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES, help="these stages")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="[default: cuda if there is a GPU]"
    )
    given = parser.parse_args(arguments)
    gpu = given.device != "cpu" and torch.cuda.is_available()
    if given.device == "cuda" and not gpu:
        parser.error("there is no GPU that torch can use here; leave --device out, or give cpu")
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    name = torch.cuda.get_device_name(device) if gpu else "cpu"
    print(f"{name}, torch {torch.__version__}")
    if not gpu:
        print("No GPU: a tiny model in Triton's interpreter. No timing here means anything.")
    out: Path = given.out or RESULTS / f"gpu_check_{name.replace(' ', '_').lower()}.json"

    def keep(found: dict[str, Any]) -> None:
        out.write_text(json.dumps(found, indent=1, default=str) + "\n")

    check = GpuCheck(device, PRODUCTION if gpu else TINY, given.minutes)
    check.run(given.only, keep)
    for row in check.found["predictions"] if gpu else ():
        expected = f"predicted {row['predicted']}, aim {row['aim']}"
        print(f"  {row['what']}: {row['found']} {row['unit']} ({expected})")
    faults = check.found["faults"]
    print(f"\n{len(faults)} faults; written to {out}")
    for fault in faults:
        print(f"  {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
