"""The dry run: when each prompt would take effect."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afstream.timeline import Plan


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Write the plan to standard output, as a table or as JSON."""
    if as_json:
        sys.stdout.write(json.dumps(plan_as_data(plan), indent=2) + "\n")
    else:
        show_table(plan)


def plan_as_data(plan: Plan) -> dict[str, object]:
    """The plan in plain values."""
    return {
        "duration_s": plan.duration_s,
        "num_chunks": plan.num_chunks,
        "num_video_frames": plan.num_video_frames,
        "cues": [
            {
                "prompt": planned.cue.prompt,
                "transition": planned.cue.transition,
                "blend_s": planned.cue.blend_s,
                "seed": planned.cue.seed,
                "note": planned.cue.note,
                "requested_s": planned.requested_s,
                "effective_s": planned.effective_s,
                "slip_s": planned.slip_s,
                "chunk": planned.chunk,
                "num_chunks": planned.num_chunks,
                "scene": planned.scene,
            }
            for planned in plan.cues
        ],
    }


def show_table(plan: Plan) -> None:
    """One row per prompt."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from afstream.text import printable
    from afstream.timeline.moment import clock_time

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("asked", "effective", "slip", "chunk"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("how", no_wrap=True)
    table.add_column("prompt")
    for planned in plan.cues:
        cue = planned.cue
        words: list[str] = [cue.transition]
        if cue.blend_s:
            words.append(f"blend={cue.blend_s:g}s")
        if cue.seed is not None:
            words.append(f"seed={cue.seed}")
        table.add_row(
            clock_time(planned.requested_s),
            clock_time(planned.effective_s),
            f"{planned.slip_s:.2f} s",
            str(planned.chunk),
            " ".join(words if planned.chunk else words[1:]),
            # A prompt may hold what rich would read as markup.
            Text(printable(f"{cue.prompt}  ({cue.note})" if cue.note else cue.prompt)),
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(
        f"\n{plan.duration_s:.2f} s: {plan.num_chunks} chunks, {plan.num_video_frames} frames"
    )
