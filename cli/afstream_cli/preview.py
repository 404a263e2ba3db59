"""The dry run: when each prompt would take effect."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from afstream.text import printable
from afstream.timeline.moment import clock_time

if TYPE_CHECKING:
    from afstream.timeline import Plan
    from afstream.timeline.plan import PlannedCue

HEADINGS = ("asked", "effective", "slip", "chunk", "how", "prompt")
# a prompt is not wrapped into less
LEAST_COLUMNS = 20


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
    """One line per prompt; on a terminal a long one goes on below itself."""
    rows = [HEADINGS, *map(cells, plan.cues)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for *row, how, prompt in rows:
        right = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False))
        before = "  ".join((*right, f"{how:<{widths[-1]}}", ""))
        room = columns - len(before)
        words = textwrap.wrap(prompt, room) if room > LEAST_COLUMNS else [prompt]
        sys.stdout.write(before + f"\n{' ' * len(before)}".join(words) + "\n")
    sys.stdout.write(
        f"\n{plan.duration_s:.2f} s: {plan.num_chunks} chunks, {plan.num_video_frames} frames\n"
    )


def cells(planned: PlannedCue) -> tuple[str, ...]:
    """What the table says of a prompt."""
    cue = planned.cue
    words: list[str] = [cue.transition] if planned.chunk else []
    if cue.blend_s:
        words.append(f"blend={cue.blend_s:g}s")
    if cue.seed is not None:
        words.append(f"seed={cue.seed}")
    return (
        clock_time(planned.requested_s),
        clock_time(planned.effective_s),
        f"{planned.slip_s:.2f} s",
        str(planned.chunk),
        " ".join(words),
        printable(f"{cue.prompt}  ({cue.note})" if cue.note else cue.prompt),
    )
