"""Options that commands share, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

# Headings of the help page.
VIDEO = "Video"
MODEL = "Model"
JSONL = "Prompt files of other projects (.jsonl)"
REPORT = "Report"
# More than any machine has, and few enough for every system to start.
MOST_THREADS = 1024


def option(
    panel: str,
    text: str,
    *names: str,
    metavar: str | None = None,
    default: str | None = None,
    least: int | None = None,
) -> Any:  # noqa: ANN401 - what Typer's own function returns
    """An option of a command.

    Args:
        panel: its heading on the help page.
        text: its help.
        names: its names on the command line; without any, made from the parameter's name.
        metavar: placeholder for its value in the help.
        default: shown as the default in the help, where the value itself would say little.
        least: the smallest value allowed.
    """
    return typer.Option(
        *names,
        help=text,
        metavar=metavar,
        min=least,
        show_default=default or True,
        rich_help_panel=panel,
    )


Prompts = Annotated[
    str,
    typer.Option(
        "--prompts",
        "-p",
        metavar="FILE",
        help="Timeline of prompts, a .jsonl file, a run record, or - for cues from standard input.",
    ),
]
Out = Annotated[
    Path | None,
    option(
        VIDEO,
        "Video: .mp4, .mov, .mkv, .webm, .gif, a folder of PNGs (no suffix), or - for standard"
        " output.",
        "--out",
        "-o",
        metavar="PATH",
        default="out.mp4, or out-2.mp4 ...",
    ),
]
Overwrite = Annotated[
    bool, option(VIDEO, "Replace an earlier film in the same place.", "--overwrite")
]
Resume = Annotated[
    bool,
    option(
        VIDEO,
        "Go on with the film at --out where it is unfinished, and begin it where there is none.",
        "--resume",
    ),
]
Duration = Annotated[
    str | None,
    option(VIDEO, "Length, such as 1:00, 12.5s or 160f.", metavar="TIME", default="the timeline's"),
]
Exact = Annotated[
    bool,
    option(VIDEO, "End at the frame that the length names, within a chunk if need be.", "--exact"),
]
Scale = Annotated[
    int | None,
    option(
        VIDEO,
        "Enlarge pictures N times.",
        metavar="N",
        default="until the shorter side is 256 px or more",
    ),
]
Crf = Annotated[
    int | None,
    option(
        VIDEO,
        "Quality of the video: lower is better and larger.",
        metavar="N",
        default="18; 24 for .webm",
        least=0,
    ),
]
Subtitles = Annotated[
    str | None,
    option(
        VIDEO,
        "Write notes, and prompts without one, as subtitles beside the video (srt or vtt), or"
        " draw the notes into the pictures (burn).",
        metavar="srt|vtt|burn",
    ),
]
Sheet = Annotated[
    Path | None, option(VIDEO, "Also draw a contact sheet, with one row per prompt.", metavar="PNG")
]
Model = Annotated[
    str,
    option(
        MODEL,
        "Embedded model, a model file, a Wan2.1 folder (as downloaded, converted, in a hub's cache,"
        " or ComfyUI's models/), or random:wan-1.3b (speed only).",
        metavar="NAME|PATH",
    ),
]
Student = Annotated[
    str | None,
    option(
        MODEL,
        "File or folder of a few-step student that replaces a Wan folder's own backbone.",
        metavar="PATH",
    ),
]
Lora = Annotated[
    list[str] | None,
    option(
        MODEL,
        "LoRA to add to a Wan model's weights; may be given several times.",
        "--lora",
        metavar="FILE[:SCALE]",
    ),
]
Vae = Annotated[
    str | None,
    option(
        MODEL,
        "Another decoder for a Wan model: a tiny one (faster, softer), or the one at a path.",
        "--vae",
        metavar="tiny|PATH",
        default="the folder's own",
    ),
]
TextEncoderFile = Annotated[
    str | None,
    option(
        MODEL,
        "Another UMT5 text encoder for a Wan model: one file with Wan's or transformers' names, as"
        " ComfyUI has it, or a folder.",
        "--text-encoder-file",
        metavar="PATH",
        default="the folder's own",
    ),
]
TextEncoder = Annotated[
    str | None,
    option(
        MODEL,
        "Where a Wan model's text encoder runs: device, cpu, or drop (free it once the timeline's"
        " prompts are encoded).",
        "--text-encoder",
        metavar="PLACE",
        default="whatever fits",
    ),
]
Offload = Annotated[
    int,
    option(
        MODEL,
        "Number of a Wan model's layers to keep in host memory: less GPU memory, slower.",
        metavar="N",
        least=0,
    ),
]
GpuMemory = Annotated[
    str | None,
    option(
        MODEL,
        "Plan for this much GPU memory, such as 12GiB.",
        metavar="SIZE",
        default="what is free",
    ),
]
Seed = Annotated[
    int | None,
    option(MODEL, "Random seed.", metavar="N", least=0, default="the timeline's @seed, or 0"),
]
Size = Annotated[
    str | None,
    option(MODEL, "Size of the generated frames in pixels.", metavar="WxH", default="the model's"),
]
Preset = Annotated[
    str | None,
    option(
        MODEL,
        "Window, memory and denoise steps of a public family of students: self-forcing,"
        " causal-forcing, longlive, longlive-infinity, memflow, anchor-forcing or krea-realtime.",
        metavar="NAME",
        default="recognised by the files' names",
    ),
]
Memory = Annotated[
    str | None,
    option(
        MODEL,
        "Memory policy: anchor, recache, recapture, rolling or clear.",
        metavar="NAME",
        default="the preset's, or anchor",
    ),
]
Junction = Annotated[
    str | None,
    option(
        MODEL,
        "Whether the older junction stays visible between two switches: hold or gap.",
        metavar="hold|gap",
        default="the memory's",
    ),
]
Device = Annotated[
    str | None,
    option(MODEL, "Device: cpu or cuda.", metavar="NAME", default="cuda where there is one"),
]
Dtype = Annotated[
    str | None,
    option(
        MODEL,
        "Type of the weights: float32 or bfloat16.",
        metavar="NAME",
        default="bfloat16 on a GPU, or float32",
    ),
]
Backend = Annotated[
    str | None,
    option(
        MODEL,
        "Backend of the kernels: triton, sdpa, reference or auto.",
        metavar="NAME",
        default="AFSTREAM_BACKEND, or auto",
    ),
]
Compile = Annotated[
    bool, option(MODEL, "Compile the layers: slower to start, faster on a GPU.", "--compile")
]
NoGraph = Annotated[
    bool,
    option(MODEL, "On a GPU, launch each kernel instead of replaying CUDA graphs.", "--no-graph"),
]
SwitchFrames = Annotated[
    str | None,
    option(JSONL, "Latent frames at which prompts change.", metavar="N,N,...", default="every 40"),
]
Line = Annotated[
    int | None,
    option(
        JSONL, "Line of the file to play.", metavar="N", least=1, default="the first with prompts"
    ),
]
DryRun = Annotated[
    bool,
    option(
        REPORT,
        "Check everything but the weights' values, and show when each prompt would take effect.",
        "--dry-run",
    ),
]
Record = Annotated[
    Path | None,
    option(REPORT, "Path of the run record.", metavar="JSON", default="beside the video"),
]
NoState = Annotated[
    bool,
    option(
        REPORT,
        "Save no state of the stream; going on then computes every chunk again.",
        "--no-state",
    ),
]
Quiet = Annotated[bool, option(REPORT, "Print no progress.", "--quiet", "-q")]
Json = Annotated[
    bool,
    option(
        REPORT, "Print one line of JSON per chunk on standard output, and no progress.", "--json"
    ),
]
Film = Annotated[Path, typer.Argument(metavar="FILM", help="The video, or its run record.")]
At = Annotated[
    str,
    option(VIDEO, "Time at which the new film leaves the old one, such as 0:20.", metavar="TIME"),
]
BranchOut = Annotated[
    Path | None,
    option(
        VIDEO,
        "The new film: .mp4, .mov, .mkv, or a folder of PNGs if the old one is one.",
        "--out",
        "-o",
        metavar="PATH",
        default="FILM-2, or the next free number",
    ),
]
More = Annotated[
    str,
    typer.Option(
        "--prompts",
        "-p",
        metavar="FILE",
        help="Timeline of what follows, its times counted from there.",
    ),
]
