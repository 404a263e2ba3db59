"""What `cpu_path.py` found, as a section of `docs/performance.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADING = "## On a CPU, against the public way"
PUBLIC = "public way"
PARTS = ("chunk", "switch")


def with_section(page: str, result: Mapping[str, Any]) -> str:
    """A page with the section at its end, in the place of an older one."""
    return f"{page.split(HEADING)[0].rstrip()}\n\n{section(result)}"


def section(result: Mapping[str, Any]) -> str:
    """The section, made of nothing but a result."""
    machine, sizes, pocket = result["machine"], result["sizes"], result["pocket"]
    text = (
        HEADING,
        "Written from the result of `benchmarks/cpu_path.py`. Public streaming code caches keys"
        " that are not rotated, and in every layer of every pass clones the window, adds the"
        " block's keys and rotates all of them in complex128; `benchmarks/cpu_stages/public_way.py`"
        f" does that on the same random weights: {sizes['dim']} wide, {sizes['layers']} layers,"
        f" feed-forward {sizes['ffn_dim']}. All ways ran in turn in one process, with"
        f" {result['threads']} thread on {machine['cpu']}, torch {machine['torch']}, commit"
        f" {machine['commit']}; other processes were running (load {machine['load']}), so the"
        " milliseconds are those of the processor, and only the ratios hold elsewhere.",
        "| tokens of a chunk | way | chunk, CPU ms | times | switch, CPU ms | times |\n"
        "| --- | --- | ---: | ---: | ---: | ---: |\n" + "\n".join(_rows(result)),
        "*Packed* weights are a second copy in the CPU's own layout. An opened model has one where"
        " the processor has AVX-512, the model is at least 384 wide and the copy takes at most"
        f" 1 GiB. The pocket model, 192 wide, takes {pocket['cpu_ms_of_a_chunk']:.1f} CPU ms a"
        f" chunk without and {result['pocket, packed']['cpu_ms_of_a_chunk']:.1f} with it, in"
        f" float32 and without a writer; that is {pocket['times_real_time_cpu']:.1f} times real"
        " time by the processor's clock, without it, and"
        f" {pocket['times_real_time_wall']:.1f} by the wall's on that busy machine.",
    )
    return "\n\n".join(text) + "\n"


def _rows(result: Mapping[str, Any]) -> list[str]:
    rows: list[str] = []
    for tokens, found in result.items():
        if not tokens.endswith(" tokens"):
            continue
        spans, ratios = found["cpu_ms"], found["public_to_this"]
        names = dict.fromkeys(name.rsplit(", ", 1)[0] for name in spans)
        for name in sorted(names, key=lambda name: name != PUBLIC):
            cells = [
                f"{values[f'{name}, {part}']:.{digits}f}"
                for part in PARTS
                for values, digits in ((spans, 1), (ratios, 2))
            ]
            rows.append(f"| {tokens.removesuffix(' tokens')} | {name} | {' | '.join(cells)} |")
    return rows
