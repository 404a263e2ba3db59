"""Options that commands share, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# Headings of the help page.
VIDEO = "Video"
MODEL = "Model"
JSONL = "Prompt files of other projects (.jsonl)"
REPORT = "Report"

Prompts = Annotated[
    str,
    typer.Option(
        "--prompts",
        "-p",
        metavar="FILE",
        help="Timeline of prompts, a .jsonl file, or - for cues from standard input.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="Video: .mp4, .webm, .gif, or a folder of PNGs (no suffix).",
        rich_help_panel=VIDEO,
    ),
]
Duration = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Length, such as 1:00, 12.5s or 160f; else as the timeline says.",
        rich_help_panel=VIDEO,
    ),
]
Scale = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Enlarge pictures N times; else until the shorter side is 256 px or more.",
        rich_help_panel=VIDEO,
    ),
]
Sheet = Annotated[
    Path | None,
    typer.Option(
        metavar="PNG",
        help="Also draw a contact sheet, one row a prompt.",
        rich_help_panel=VIDEO,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|PATH",
        help="Embedded model, a model file, a Wan2.1 folder, or random:wan-1.3b (speed only).",
        rich_help_panel=MODEL,
    ),
]
Student = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Few-step student, in the place of a Wan folder's own backbone.",
        rich_help_panel=MODEL,
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="Added to a Wan model's weights; may be given several times.",
        rich_help_panel=MODEL,
    ),
]
Vae = Annotated[
    str | None,
    typer.Option(
        "--vae",
        metavar="tiny|PATH",
        help="Another decoder for a Wan model: a tiny one (faster, softer), or the one at a path.",
        rich_help_panel=MODEL,
    ),
]
TextEncoder = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        metavar="PLACE",
        help="Of a Wan model: device, cpu, or drop (gone once a timeline's prompts are encoded);"
        " else as it fits.",
        rich_help_panel=MODEL,
    ),
]
Offload = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Layers of a Wan model that lie in host memory: less GPU memory, slower.",
        rich_help_panel=MODEL,
    ),
]
GpuMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Reckon with so much GPU memory, such as 12GiB; else with what is free.",
        rich_help_panel=MODEL,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Of the noise; else the timeline's, else 0.",
        rich_help_panel=MODEL,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH", help="Of the generated frames, px; else the model's.", rich_help_panel=MODEL
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Window, memory and denoise steps of a public family of students: self-forcing,"
        " causal-forcing, longlive, longlive-infinity, memflow, anchor-forcing or krea-realtime;"
        " else as the files' names tell.",
        rich_help_panel=MODEL,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="anchor, recache, recapture, rolling or clear; else the preset's, else anchor.",
        rich_help_panel=MODEL,
    ),
]
Junction = Annotated[
    str | None,
    typer.Option(
        metavar="hold|gap",
        help="Between two switches, keep showing the older junction or none.",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="cpu or cuda; else cuda where there is one.", rich_help_panel=MODEL
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="float32 or bfloat16; else what suits the device.",
        rich_help_panel=MODEL,
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of the kernels: triton, sdpa, reference or auto; else AFSTREAM_BACKEND, else auto.",
        rich_help_panel=MODEL,
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the layers: slower to start, faster on a GPU.",
        rich_help_panel=MODEL,
    ),
]
NoGraph = Annotated[
    bool,
    typer.Option(
        "--no-graph",
        help="On a GPU, launch each kernel anew instead of replaying captured calls.",
        rich_help_panel=MODEL,
    ),
]
SwitchFrames = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="Latent frames at which prompts change; else every 40.",
        rich_help_panel=JSONL,
    ),
]
Line = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Line of the file to play; else the first.", rich_help_panel=JSONL
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only show when each prompt would take effect.",
        rich_help_panel=REPORT,
    ),
]
Record = Annotated[
    Path | None,
    typer.Option(metavar="JSON", help="Run record; else beside the video.", rich_help_panel=REPORT),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=REPORT)]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One line of JSON per chunk on standard output, no progress.",
        rich_help_panel=REPORT,
    ),
]
