"""`afstream inspect`: what files and folders contain, and what is missing to generate."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afstream.checkpoints.findings import Finding
    from afstream.memory_plan.fit import Fit
    from afstream.spec import StreamConfig

USER_ERROR = 2

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        help="Files and folders, pocket, or random:wan-1.3b; judged one by one and together.",
    ),
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
    whether generate would take them so, what is still missing to generate with all of them, and how
    much GPU memory that takes.
    The exit code is 2 when something could not be identified, or generate would refuse it; the rest
    is shown all the same.
    """
    # these import torch
    from afstream.checking import check_found
    from afstream.checkpoints.findings import judge
    from afstream.errors import AfstreamError, CheckpointError
    from afstream.families.presets import recognise_among
    from afstream.families.registry import identify
    from afstream.memory_plan.found import fit_found
    from afstream.spec import StreamConfig
    from afstream_cli.findings import as_data, show_findings
    from afstream_cli.inputs import read_memory, read_pixels
    from afstream_cli.streams import tell

    pixels, room = read_pixels(size), read_memory(gpu_memory)
    preset = recognise_among(paths)
    config = StreamConfig(memory=memory, preset=preset, size=pixels)
    check_memory(config)
    findings: list[Finding] = []
    faults: list[str] = []
    for path in paths:
        try:
            finding = identify(Path(path))
            findings.append(finding)
            faults += unknown(finding) or changed(finding, contents=contents)
        except CheckpointError as error:
            faults.append(str(error))
    # a GPU is only supposed, and what runs on this machine's CPU is not asked
    found, refusals = check_found(findings, replace(config, backend="auto"))
    faults += [*refused(findings), *refusals]
    first = found[0] if found else None
    asked = replace(config, gpu_memory=room)
    fit: Fit | None = None
    try:
        model = first.config.model if first else config.model
        fit = fit_found(findings, replace(asked, model=model), first and first.model)
    except AfstreamError as error:
        # most likely for a reason that was told
        faults += [] if refusals else [f"its memory cannot be counted: {error}"]
    faults = list(dict.fromkeys(faults))
    together = judge(findings)
    if as_json:
        data = as_data(findings, together, fit, preset, faults)
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    else:
        show_findings(findings, together, fit, preset)
    for fault in faults:
        tell(f"afstream: {fault}")
    if faults:
        raise typer.Exit(USER_ERROR)


def check_memory(config: StreamConfig) -> None:
    """Refuse an unknown memory before any file is read; see `memory_of`."""
    from afstream.families.presets import memory_of
    from afstream.families.wan.family import WAN

    memory_of(config, WAN.lengths)


def unknown(finding: Finding) -> list[str]:
    """The message for a file that could be read but was not recognised."""
    if finding.kind != "unknown" or finding.fault:
        return []
    return [
        f"{finding.path} was not recognised: {'; '.join(finding.notes)}; give a Wan2.1 folder, a"
        " student, a LoRA, a VAE, a text encoder or a pocket model"
    ]


def refused(findings: Sequence[Finding]) -> list[str]:
    """The messages for what generating would refuse, whatever else it is given."""
    from afstream.checkpoints.findings import base_of, faults_of, misfit_of

    base = base_of(findings)
    misfits = (misfit_of(one, base) for one in findings)
    return [*faults_of(findings), *filter(None, misfits)]


def changed(finding: Finding, *, contents: bool) -> list[str]:
    """The message for a converted folder whose files have changed since."""
    names = finding.manifest.changed(finding.path, contents=contents) if finding.manifest else []
    if not names:
        return []
    return [
        f"{finding.path} has changed since it was written: {', '.join(names)} differ"
        " from afstream.json; convert the model again"
    ]
