"""How speed and memory of a stream go with its length, an mp4 being written meanwhile.

    python benchmarks/stream_length.py
    python benchmarks/stream_length.py --minutes 60 --threads 2

Prints a table, writes `benchmarks/results/stream_length.json`, and brings
`docs/performance.md` up to date, with the last result of `cpu_path.py` at its end. Run
it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import decoder_cost
from afstream.bench import Load, Meter
from afstream.bench.load import PROMPTS
from afstream.errors import AfstreamError
from afstream.spec import ModelSpec, StreamConfig
from afstream.video import VideoWriter
from cpu_stages.page import with_section

RESULT = "stream_length"
CPU_RESULT = "cpu_path"
RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
# what stands on the page from here on is written by hand, and stays
BY_HAND = "## The GPU path"
MINUTE_S = 60.0
MIB = 2**20


def measure(load: Load, video: Path) -> dict[str, Any]:
    """Stream into a video file; the measurement as plain data."""
    meter = Meter(load)
    total_min = load.duration_s / MINUTE_S
    with VideoWriter.open(video, size=meter.stream.size, fps=meter.stream.fps) as writer:
        for chunk in meter.run(writer.write):
            minutes = (chunk.start_s + len(chunk.frames) / meter.stream.fps) / MINUTE_S
            print(f"\r{minutes:.1f} of {total_min:.1f} min", end="", file=sys.stderr)
    print(file=sys.stderr)
    return meter.result().as_data() | {"video_mib": round(video.stat().st_size / MIB, 2)}


def page(result: dict[str, Any]) -> str:
    """What `docs/performance.md` says of a result."""
    on_cpu = result["machine"]["gpu"] is None
    parts = (
        "# Performance",
        "Written by `benchmarks/stream_length.py` from its result; no figure is typed by hand."
        f" `afstream bench` measures the same on any machine. {BY_HAND.strip('# ')}, at the end, is"
        " written by hand.",
        "## A stream into an mp4",
        machine_table(result),
        *(["Figures of a CPU say nothing about a GPU."] if on_cpu else []),
        summary_table(result),
        "Milliseconds of a chunk (12 video frames, 9 at a scene's start):",
        parts_table(result),
        "## Against the length of the stream",
        flatness(result),
        stretch_table(result),
    )
    return "\n\n".join(parts) + "\n"


def machine_table(result: dict[str, Any]) -> str:
    """What the figures hold for."""
    machine, model, setup = result["machine"], result["model"], result["setup"]
    width, height = result["size"]
    rows = [
        ("model", f"{model['name']}, {model['backbone_parameters'] / 1e6:.1f} M parameters"),
        ("video", f"{width}x{height} px, {result['fps']} fps, written as {setup['consumer']}"),
        ("memory", model["memory"]),
        ("device", f"{model['device']}, {model['dtype']}"),
        ("processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads"),
        ("GPU", machine["gpu"] or "none used"),
        ("load before", f"{machine['load']} processes"),
        ("software", f"afstream {machine['afstream']}, torch {machine['torch']}"),
        ("commit", machine["commit"] or "not a checkout"),
    ]
    return table(("", ""), rows)


def summary_table(result: dict[str, Any]) -> str:
    """Rates, latencies, memory."""
    rates, first, switch = result["rates"], result["first_frame"], result["switch_ms"]
    cold = first["open_ms"] + first["cold_ms"]
    rows = [
        ("end to end", f"{rates['end_to_end']:.1f} fps"),
        ("times real time", f"{rates['times_real_time']:.2f}"),
        ("denoising (with context passes and re-caches)", f"{rates['denoise']:.1f} fps"),
        ("decoding", f"{rates['decode']:.1f} fps"),
        ("share of time outside the model", f"{result['outside_model']:.1%}"),
        ("share of time spent on writing the video", f"{result['in_consumer']:.1%}"),
        ("first frame, cold (model loaded from disk)", f"{cold:.0f} ms"),
        ("first frame, warm (a cut)", f"{first['warm_ms']:.0f} ms"),
        (f"switch, median of {switch['count']}", f"{switch['median']:.0f} ms"),
        ("switch, slowest", f"{switch['max']:.0f} ms"),
        ("peak memory of the process", mib(result["resident_bytes"])),
    ]
    if result["device_bytes"] is not None:
        rows.append(("peak memory of tensors on the GPU", mib(result["device_bytes"])))
    return table(("", ""), rows)


def parts_table(result: dict[str, Any]) -> str:
    """Median, 95th percentile and slowest of every part of a chunk."""
    names = {
        "denoise": "denoise steps",
        "recache": "re-cache at a switch",
        "context": "context pass",
        "decode": "decode",
        "consume": "write",
        "all": "whole chunk",
    }
    parts = result["parts_ms"]
    rows = [
        (name, *(f"{parts[part][key]:.1f}" for key in ("median", "p95", "max")))
        for part, name in names.items()
    ]
    return table(("part", "median", "p95", "max"), rows)


def flatness(result: dict[str, Any]) -> str:
    """Whether speed and memory stay as they are, in a sentence."""
    stretches, ratio, growth = (
        result[key] for key in ("stretches", "late_to_early", "growth_bytes")
    )
    rates = [stretch["frames_per_s"] for stretch in stretches]
    length = result["setup"]["duration_s"] / MINUTE_S
    text = (
        f"Over {length:g} minutes of video the rate lies between {min(rates):.1f} and"
        f" {max(rates):.1f} fps."
    )
    if ratio is not None:
        text += f" The last quarter ran at {ratio:.3f} times the rate of the first"
        text += "." if growth is None else f" and held {growth / MIB:+.1f} MiB more memory."
    return text


def stretch_table(result: dict[str, Any]) -> str:
    """Speed and memory per stretch of the video."""
    gpu = result["device_bytes"] is not None
    headings = (
        "from minute",
        "fps",
        "slowest chunk, ms",
        "memory",
        *(["GPU memory"] if gpu else []),
    )
    rows = [
        (
            f"{stretch['start_s'] / MINUTE_S:.1f}",
            f"{stretch['frames_per_s']:.1f}",
            f"{stretch['slowest_chunk_ms']:.0f}",
            mib(stretch["resident_bytes"]),
            *([mib(stretch["device_bytes"])] if gpu else []),
        )
        for stretch in result["stretches"]
    ]
    return table(headings, rows)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right of their names."""
    align = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, align, *rows))


def mib(count: int | None) -> str:
    """Bytes as MiB."""
    return "unknown" if count is None else f"{count / MIB:.0f} MiB"


def main() -> int:
    """Measure, or only write the page again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10.0, help="of video")
    parser.add_argument("--model", default="pocket", help="name or path")
    parser.add_argument("--memory", default="anchor")
    parser.add_argument("--device", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="to compute with on the CPU")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    given = parser.parse_args()
    path = given.results / f"{RESULT}.json"
    try:
        if not given.page_only:
            if given.threads:
                torch.set_num_threads(given.threads)
            stream = StreamConfig(
                model=ModelSpec(name=given.model, device=given.device),
                memory=given.memory,
                prompts=PROMPTS,
            )
            load = Load(
                stream=stream,
                duration_s=given.minutes * MINUTE_S,
                stretch_s=MINUTE_S,
                consumer="mp4",
            )
            with tempfile.TemporaryDirectory() as folder:
                result = measure(load, Path(folder, "stream.mp4"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result, indent=2) + "\n")
        text = page(json.loads(path.read_text()))
        cpu = given.results / f"{CPU_RESULT}.json"
        if cpu.exists():
            text = with_section(text, json.loads(cpu.read_text()))
    except (AfstreamError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    # what other scripts and people wrote there stays
    before = given.page.read_text(encoding="utf-8") if given.page.is_file() else ""
    _, heading, rest = before.partition(f"\n{BY_HAND}\n")
    parts = (text, decoder_cost.part_of(before), heading, rest)
    given.page.write_text("".join(parts), encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
