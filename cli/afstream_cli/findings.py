"""Shows what files and folders contain, as tables and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from afstream.text import printable
from afstream_cli.memory_view import memory_data, memory_heading, memory_rows

if TYPE_CHECKING:
    from afstream.checkpoints.findings import Finding, Missing, Together
    from afstream.memory_plan.fit import Fit

# width of output to a file or a pipe
PLAIN_WIDTH = 120
BILLION, MILLION, THOUSAND = 1e9, 1e6, 1e3
# of a LoRA's layers; more are counted
SHOWN_STRENGTHS = 4

# a name and its value; rows without a value are not shown
Rows = Iterator[tuple[str, str]]


def show_findings(
    findings: Sequence[Finding], together: Together, memory: Fit | None, preset: str | None
) -> None:
    """Print a block of lines for each finding, one for all together, and one on memory."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(highlight=False, markup=False, width=width)
    blocks = [Group(heading(one), lines(finding_rows(one))) for one in findings]
    if len(findings) > 1 or preset:
        blocks.append(Group(Text("together", "bold"), lines(together_rows(together, preset))))
    if memory:
        blocks.append(Group(memory_heading(memory), lines(memory_rows(memory))))
    for index, block in enumerate(blocks):
        if index:
            console.print()
        console.print(block)


def as_data(
    findings: Sequence[Finding],
    together: Together,
    memory: Fit | None,
    preset: str | None,
    faults: Sequence[str],
) -> dict[str, Any]:
    """The same as plain data, and what generating would refuse, a sentence each."""
    return {
        "faults": faults,
        "findings": [finding_data(one) for one in findings],
        "together": {**asdict(together), "preset": preset},
        "memory": memory and memory_data(memory),
    }


def finding_data(finding: Finding) -> dict[str, Any]:
    """A finding as plain data; empty values are left out."""
    lora, manifest = finding.lora, finding.manifest
    data = {
        "path": str(finding.path),
        "kind": finding.kind,
        "family": finding.family,
        "size": finding.size,
        "backbone": finding.backbone and asdict(finding.backbone),
        "layout": finding.layout,
        "dtypes": finding.dtypes,
        "parameters": finding.num_parameters,
        "num_bytes": finding.num_bytes,
        "entries": finding.entries,
        "entry": finding.entry,
        "lora": lora
        and {
            "ranks": lora.ranks,
            "strengths": [
                {"factor": one.factor, **one._asdict(), "num_layers": count}
                for one, count in lora.strength_counts.items()
            ],
            "kinds": lora.kind_counts,
            "num_weights": len(lora.changes),
            "fits": finding.fits,
        },
        # the folder's own finding says whether it is complete
        "parts": [{**finding_data(part), "missing": []} for part in finding.parts],
        "manifest": manifest and manifest.model_dump(mode="json", exclude_none=True),
        "provides": finding.provides,
        "fault": finding.fault,
        "notes": finding.notes,
    }
    data = {name: value for name, value in data.items() if value not in (None, "", (), [], {})}
    missing = [asdict(one) for one in finding.missing]
    return data | {"supported": finding.supported, "missing": missing}


def heading(finding: Finding) -> Text:
    """Path, kind and layout."""
    layout = f", {finding.layout} layout" if finding.layout not in ("", "converted") else ""
    text = Text(printable(finding.path), "bold")
    return text.append(printable(f"  {finding.kind}{layout}"), "dim")


def finding_rows(finding: Finding) -> Rows:
    """A row for each thing that is known about a file or a folder."""
    yield "model", model(finding)
    yield "weights", weights(finding.dtypes, finding.num_bytes)
    if finding.entry:
        yield "entries", f"{', '.join(finding.entries)}; {finding.entry} is taken"
    if lora := finding.lora:
        fits = ", ".join(finding.fits) or "no Wan2.1 of a known size"
        kinds = lora.kind_counts.items()
        yield "made of", ", ".join(f"{count} {kind}" for kind, count in kinds)
        for index, (one, count) in enumerate(lora.strength_counts.items()):
            if index < SHOWN_STRENGTHS:
                yield "factor", f"{one.describe()}: {count} layer{'s' * (count > 1)}"
        if (more := len(lora.strength_counts) - SHOWN_STRENGTHS) > 0:
            yield "factor", f"{more} more in other layers"
        yield "changes", f"{len(lora.changes)} weights; fits {fits}"
    for part in finding.parts:
        unfit = "" if part.supported else f"; {part.family or 'unknown'}: not supported"
        yield part.kind, (weights(part.dtypes, part.num_bytes) or "there") + unfit
    yield "made from", finding.manifest.origin if finding.manifest else ""
    if finding.supported:
        yield from missing_rows(finding.missing)
    for note in finding.notes:
        yield "note", note


def together_rows(together: Together, preset: str | None) -> Rows:
    """What the paths make up together."""
    yield from missing_rows(together.missing)
    yield "preset", f"{preset}, by the files' names" if preset else ""
    for remark in together.remarks:
        yield "note", remark


def missing_rows(missing: Sequence[Missing]) -> Rows:
    """What is still missing to generate, grouped by where it comes from."""
    if not missing:
        yield "missing", "nothing"
    for place in dict.fromkeys(piece.where for piece in missing):
        pieces = ", ".join(one.piece for one in missing if one.where == place)
        yield "missing", f"{pieces}: from {place}"


def lines(rows: Rows) -> RenderableType:
    """Rows of names and values; a name that equals the one above is left out."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for name, value in rows:
        if value:
            table.add_row("" if name == before else f"  {name}", printable(value))
            before = name
    return table


def model(finding: Finding) -> str:
    """Family and size."""
    if not finding.family:
        return ""
    text = finding.family if finding.supported else f"{finding.family}: not supported"
    if config := finding.backbone:
        text += f", {finding.size}" if finding.size.endswith("B") else ""
        text += f", {config.num_layers} layers, {config.dim} wide, {config.num_heads} heads"
    return text


def weights(dtypes: Mapping[str, int], num_bytes: int) -> str:
    """Parameters, bytes on disk, dtypes."""
    total = sum(dtypes.values())
    if not total:
        return ""
    shares = sorted(dtypes.items(), key=lambda item: -item[1])
    one = len(shares) == 1
    named = ", ".join(name if one else f"{name} {count / total:.0%}" for name, count in shares)
    return f"{parameters(total)} parameters, {size(num_bytes)} on disk, {named}"


def parameters(count: int) -> str:
    """A number of parameters in billions or millions; small numbers as they are."""
    if count < MILLION:
        return str(count)
    return f"{count / BILLION:.2f} B" if count >= BILLION else f"{count / MILLION:.2f} M"


def size(num_bytes: int) -> str:
    """Bytes as GB, MB or KB."""
    for unit, word in ((BILLION, "GB"), (MILLION, "MB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.2f} {word}"
    return f"{num_bytes / THOUSAND:.1f} KB"
