"""What files and folders were found to be, for people and as data."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from afstream_cli.memory_view import memory_data, memory_heading, memory_rows

if TYPE_CHECKING:
    from afstream.checkpoints.findings import Finding, LoraFinding, Missing
    from afstream.checkpoints.together import Together
    from afstream.memory_plan.fit import Fit

# of a file or a pipe, which has no width of its own
PLAIN_WIDTH = 120
BILLION = 1e9
MILLION = 1e6
GB = 1e9
KB = 1e3
ALPHA_FROM = {
    "layers": "each layer says its own",
    "file": "the file says it",
    "rank": "the rank, as the file says none",
}


def show_findings(
    findings: Sequence[Finding],
    together: Together,
    memory: Fit | None,
    preset: str | None,
) -> None:
    """Write a block of lines for each finding to standard output, one for all, one on memory."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(highlight=False, markup=False, width=width)
    blocks = [finding_block(finding) for finding in findings]
    if len(findings) > 1 or preset:
        blocks.append(together_block(together, preset))
    if memory:
        blocks.append(Group(memory_heading(memory), lines([*memory_rows(memory)])))
    for index, block in enumerate(blocks):
        if index:
            console.print()
        console.print(block)


def as_data(
    findings: Sequence[Finding],
    together: Together,
    memory: Fit | None,
    preset: str | None,
) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "findings": [finding_data(one) for one in findings],
        "together": {**asdict(together), "preset": preset},
        "memory": memory and memory_data(memory),
    }


def finding_data(finding: Finding) -> dict[str, Any]:
    """A finding as plain data; what is empty is left out."""
    # the shapes of all layers would fill pages
    data = asdict(replace(finding, lora=None, manifest=None, parts=(), shapes={}, places={}))
    data |= {
        "path": str(finding.path),
        "size": finding.size,
        "parameters": finding.num_parameters,
        "provides": finding.provides,
        "parts": [{**finding_data(part), "missing": []} for part in finding.parts],
    }
    if lora := finding.lora:
        data["lora"] = asdict(replace(lora, layers={})) | {"num_layers": len(lora.layers)}
        del data["lora"]["layers"]
    if manifest := finding.manifest:
        data["manifest"] = manifest.model_dump(mode="json", exclude_none=True)
    data = {name: value for name, value in data.items() if value not in (None, "", (), [], {})}
    missing = [asdict(one) for one in finding.missing]
    return data | {"supported": finding.supported, "missing": missing}


def finding_block(finding: Finding) -> RenderableType:
    """Its path and kind, and a line for each thing that is known of it."""
    heading = Text(str(finding.path), "bold")
    heading.append(f"  {described(finding)}", "dim")
    rows = [
        ("model", model(finding)),
        ("weights", weights(finding.dtypes, finding.num_bytes)),
        ("entries", entries(finding)),
        *lora_rows(finding.lora),
        *((part.kind, part_line(part)) for part in finding.parts),
        ("made from", finding.manifest.origin if finding.manifest else ""),
        *missing_rows(finding.missing if finding.supported else None),
        *(("note", note) for note in finding.notes),
    ]
    return Group(heading, lines(rows))


def together_block(together: Together, preset: str | None) -> RenderableType:
    """What all of them make."""
    rows = [
        *missing_rows(together.missing),
        ("preset", f"{preset}, by the files' names" if preset else ""),
        *(("note", remark) for remark in together.remarks),
    ]
    return Group(Text("together", "bold"), lines(rows))


def lines(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and values below each other; a name that comes again is not repeated."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for name, value in rows:
        if value:
            table.add_row("" if name == before else f"  {name}", value)
            before = name
    return table


def described(finding: Finding) -> str:
    """Kind and layout."""
    layout = f", {finding.layout} layout" if finding.layout not in ("", "converted") else ""
    return finding.kind + layout


def model(finding: Finding) -> str:
    """Family and size."""
    if not finding.family:
        return ""
    text = finding.family if finding.supported else f"{finding.family}: not supported"
    if config := finding.backbone:
        known = finding.size.endswith("B")
        text += f", {finding.size}" if known else ""
        text += f", {config.num_layers} layers, {config.dim} wide, {config.num_heads} heads"
    return text


def weights(dtypes: Mapping[str, int], num_bytes: int) -> str:
    """Parameters, bytes on disk, dtypes."""
    total = sum(dtypes.values())
    if not total:
        return ""
    shares = sorted(dtypes.items(), key=lambda item: -item[1])
    named = (
        shares[0][0]
        if len(shares) == 1
        else ", ".join(f"{name} {count / total:.0%}" for name, count in shares)
    )
    return f"{parameters(total)} parameters, {size(num_bytes)} on disk, {named}"


def parameters(count: int) -> str:
    """Parameters in thousands of millions, or millions; few as they are."""
    if count < MILLION:
        return str(count)
    return f"{count / BILLION:.2f} B" if count >= BILLION else f"{count / MILLION:.2f} M"


def size(num_bytes: int) -> str:
    """Bytes as GB, or MB or KB where there are few."""
    for unit, word in ((GB, "GB"), (MILLION, "MB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.2f} {word}"
    return f"{num_bytes / KB:.1f} KB"


def entries(finding: Finding) -> str:
    """The sets of weights in a student's file."""
    if not finding.entry:
        return ""
    return f"{', '.join(finding.entries)}; {finding.entry} is taken"


def lora_rows(lora: LoraFinding | None) -> list[tuple[str, str]]:
    """What a LoRA changes, and in what it fits."""
    if lora is None:
        return []
    ranks = ", ".join(map(str, lora.ranks))
    alphas = ", ".join(f"{alpha:g}" for alpha in lora.alphas)
    fits = ", ".join(lora.fits) or "no Wan2.1 of a known size"
    return [
        ("rank", f"{ranks}; alpha {alphas} ({ALPHA_FROM[lora.alpha_from]})"),
        ("changes", f"{len(lora.layers)} weights; fits {fits}"),
    ]


def part_line(part: Finding) -> str:
    """One part of a folder."""
    text = weights(part.dtypes, part.num_bytes) or "there"
    unfit = "" if part.supported else f"; {part.family or 'unknown'}: not supported"
    return text + unfit


def missing_rows(missing: Sequence[Missing] | None) -> list[tuple[str, str]]:
    """What generating still needs, grouped by where it comes from."""
    if missing is None:
        return []
    if not missing:
        return [("missing", "nothing")]
    places = dict.fromkeys(piece.where for piece in missing)
    return [
        (
            "missing",
            f"{', '.join(one.piece for one in missing if one.where == place)}: from {place}",
        )
        for place in places
    ]
