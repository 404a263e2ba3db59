"""Timelines: plain text that says which prompt holds from when on."""

from afstream.timeline.cue import Cue
from afstream.timeline.jsonl import parse_jsonl, pick_line, read_jsonl
from afstream.timeline.live import LiveReader
from afstream.timeline.moment import Moment, Unit
from afstream.timeline.plan import Plan, PlannedCue
from afstream.timeline.timeline import Timeline

__all__ = [
    "Cue",
    "LiveReader",
    "Moment",
    "Plan",
    "PlannedCue",
    "Timeline",
    "Unit",
    "parse_jsonl",
    "pick_line",
    "read_jsonl",
]
