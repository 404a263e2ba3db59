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
        help="Length, such as 1:00, 12.5s or 160f.",
        show_default="the timeline's",
        rich_help_panel=VIDEO,
    ),
]
Scale = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Enlarge pictures N times.",
        show_default="until the shorter side is 256 px or more",
        rich_help_panel=VIDEO,
    ),
]
Sheet = Annotated[
    Path | None,
    typer.Option(
        metavar="PNG",
        help="Also draw a contact sheet, with one row per prompt.",
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
        help="File of a few-step student that replaces a Wan folder's own backbone.",
        rich_help_panel=MODEL,
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="LoRA to add to a Wan model's weights; may be given several times.",
        rich_help_panel=MODEL,
    ),
]
Vae = Annotated[
    str | None,
    typer.Option(
        "--vae",
        metavar="tiny|PATH",
        help="Another decoder for a Wan model: a tiny one (faster, softer), or the one at a path.",
        show_default="the folder's own",
        rich_help_panel=MODEL,
    ),
]
TextEncoder = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        metavar="PLACE",
        help="Where a Wan model's text encoder runs: device, cpu, or drop (free it once the"
        " timeline's prompts are encoded).",
        show_default="whatever fits",
        rich_help_panel=MODEL,
    ),
]
Offload = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Number of a Wan model's layers to keep in host memory: less GPU memory, slower.",
        rich_help_panel=MODEL,
    ),
]
GpuMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Plan for this much GPU memory, such as 12GiB.",
        show_default="what is free",
        rich_help_panel=MODEL,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Random seed.",
        show_default="the timeline's @seed, or 0",
        rich_help_panel=MODEL,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        help="Size of the generated frames in pixels.",
        show_default="the model's",
        rich_help_panel=MODEL,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Window, memory and denoise steps of a public family of students: self-forcing,"
        " causal-forcing, longlive, longlive-infinity, memflow, anchor-forcing or krea-realtime.",
        show_default="recognised by the files' names",
        rich_help_panel=MODEL,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Memory policy: anchor, recache, recapture, rolling or clear.",
        show_default="the preset's, or anchor",
        rich_help_panel=MODEL,
    ),
]
Junction = Annotated[
    str | None,
    typer.Option(
        metavar="hold|gap",
        help="Whether the older junction stays visible between two switches: hold or gap.",
        show_default="the memory's",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Device: cpu or cuda.",
        show_default="cuda where there is one",
        rich_help_panel=MODEL,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Type of the weights: float32 or bfloat16.",
        show_default="bfloat16 on a GPU, or float32",
        rich_help_panel=MODEL,
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Backend of the kernels: triton, sdpa, reference or auto.",
        show_default="AFSTREAM_BACKEND, or auto",
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
        help="On a GPU, launch each kernel again instead of replaying CUDA graphs.",
        rich_help_panel=MODEL,
    ),
]
SwitchFrames = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="Latent frames at which prompts change.",
        show_default="every 40",
        rich_help_panel=JSONL,
    ),
]
Line = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Line of the file to play.",
        show_default="the first with prompts",
        rich_help_panel=JSONL,
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
    typer.Option(
        metavar="JSON",
        help="Path of the run record.",
        show_default="beside the video",
        rich_help_panel=REPORT,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print no progress.", rich_help_panel=REPORT)
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one line of JSON per chunk on standard output, and no progress.",
        rich_help_panel=REPORT,
    ),
]
