"""`afstream inspect`: what files and folders are, and what is missing to generate with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from afstream.model.checkpoints.findings import Finding

USER_ERROR = 2

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="Files and folders; judged together, too.")
]
Contents = Annotated[
    bool,
    typer.Option(
        "--contents", help="Read every byte of a converted folder, and compare its SHA-256."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Data (JSON) instead of tables.")]


def inspect(paths: Paths, contents: Contents = False, as_json: Json = False) -> None:
    """Show what models, students, LoRAs and their parts are, and what is missing.

    Names and shapes are read, never weights, and no code is run. Several paths are judged
    together: whether a LoRA fits a student, and what is still missing to generate with all.
    Exit code 2 when something could not be identified; everything else is shown.
    """
    # torch comes with these
    from afstream.errors import CheckpointError
    from afstream.model.checkpoints.findings import judge
    from afstream.model.checkpoints.identify import identify
    from afstream_cli.findings import show_findings

    findings: list[Finding] = []
    faults: list[str] = []
    for path in paths:
        try:
            finding = identify(Path(path))
            findings.append(finding)
            faults += unknown(finding) or changed(finding, contents=contents)
        except CheckpointError as error:
            faults.append(str(error))
    together = judge(findings)
    if as_json:
        from afstream_cli.findings import as_data

        json.dump(as_data(findings, together), sys.stdout, indent=2)
        typer.echo()
    else:
        show_findings(findings, together)
    for fault in faults:
        typer.echo(f"afstream: {fault}", err=True)
    if faults:
        raise typer.Exit(USER_ERROR)


def unknown(finding: Finding) -> list[str]:
    """The sentence for what could be read and is nothing known."""
    if finding.kind != "unknown":
        return []
    return [
        f"{finding.path} was not recognised: {'; '.join(finding.notes)}; give a Wan2.1 folder, a"
        " student, a LoRA, a VAE, a text encoder or a pocket model"
    ]


def changed(finding: Finding, *, contents: bool) -> list[str]:
    """The sentence for a converted folder whose files are not as they were written."""
    names = finding.manifest.changed(finding.path, contents=contents) if finding.manifest else []
    if not names:
        return []
    return [
        f"{finding.path} is not as it was written: {', '.join(names)} differ from afstream.json;"
        " convert the model again"
    ]
