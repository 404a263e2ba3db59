"""`afstream inspect`: what files and folders contain, and what is missing to generate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afstream.checkpoints.findings import Finding
    from afstream.kvcache.policy import MemoryPolicy
    from afstream.memory_plan.fit import Fit

USER_ERROR = 2

Paths = Annotated[
    list[str],
    typer.Argument(metavar="PATH...", help="Files and folders, judged one by one and together."),
]
Contents = Annotated[
    bool,
    typer.Option(
        "--contents", help="Read every byte of a converted folder, and compare its SHA-256."
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH", help="Count memory for this size, px.", show_default="the model's own"
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Count with this memory policy: anchor, recache, recapture, rolling or clear.",
        show_default="recognised by the files' names, or anchor",
    ),
]
GpuMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Show how to make it fit a GPU of this size, such as 12GiB."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def inspect(
    paths: Paths,
    size: Size = None,
    memory: Memory = None,
    gpu_memory: GpuMemory = None,
    contents: Contents = False,
    as_json: Json = False,
) -> None:
    """Show what models, students, LoRAs and parts are, what is missing, and the memory needed.

    Names and shapes are read, never weights, and no code is run. Several paths are judged together:
    whether a LoRA fits a student, what is still missing to generate with all of them, and how much
    GPU memory that takes.
    The exit code is 2 when something could not be identified; the rest is shown all the same.
    """
    # these import torch
    from afstream.checkpoints.findings import judge
    from afstream.errors import AfstreamError, CheckpointError
    from afstream.families.registry import identify
    from afstream.memory_plan.found import fit_found
    from afstream.spec import StreamConfig
    from afstream_cli.findings import as_data, show_findings
    from afstream_cli.inputs import read_memory, read_pixels
    from afstream_cli.streams import tell

    pixels, room = read_pixels(size), read_memory(gpu_memory)
    preset, policy = memory_settings(paths, memory)
    findings: list[Finding] = []
    faults: list[str] = []
    for path in paths:
        try:
            finding = identify(Path(path))
            findings.append(finding)
            faults += unknown(finding) or changed(finding, contents=contents)
        except CheckpointError as error:
            faults.append(str(error))
    faults += refused(findings)
    together = judge(findings)
    fit: Fit | None = None
    try:
        fit = fit_found(findings, StreamConfig(memory=policy, size=pixels, gpu_memory=room))
    except AfstreamError as error:
        faults.append(f"its memory cannot be counted: {error}")
    if as_json:
        sys.stdout.write(json.dumps(as_data(findings, together, fit, preset), indent=2) + "\n")
    else:
        show_findings(findings, together, fit, preset)
    for fault in faults:
        tell(f"afstream: {fault}")
    if faults:
        raise typer.Exit(USER_ERROR)


def memory_settings(paths: Sequence[str], memory: str | None) -> tuple[str | None, MemoryPolicy]:
    """The preset that the files' names imply, and the memory policy of a stream of them."""
    from afstream.families.presets import memory_of, recognise_among
    from afstream.families.wan.family import WAN
    from afstream.spec import StreamConfig

    name = recognise_among(paths)
    return name, memory_of(StreamConfig(memory=memory, preset=name), WAN.lengths)


def unknown(finding: Finding) -> list[str]:
    """The message for a file that could be read but was not recognised."""
    if finding.kind != "unknown":
        return []
    return [
        f"{finding.path} was not recognised: {'; '.join(finding.notes)}; give a Wan2.1 folder, a"
        " student, a LoRA, a VAE, a text encoder or a pocket model"
    ]


def refused(findings: Sequence[Finding]) -> list[str]:
    """The messages for what generating would refuse, though it was recognised."""
    from afstream.checkpoints.findings import faults_of

    return faults_of(findings)


def changed(finding: Finding, *, contents: bool) -> list[str]:
    """The message for a converted folder whose files have changed since."""
    names = finding.manifest.changed(finding.path, contents=contents) if finding.manifest else []
    if not names:
        return []
    return [
        f"{finding.path} has changed since it was written: {', '.join(names)} differ"
        " from afstream.json; convert the model again"
    ]
