"""Timelines: text with a prompt and its start time on each line."""

from afstream.timeline.cue import Cue
from afstream.timeline.live import LiveReader
from afstream.timeline.moment import Moment, Unit
from afstream.timeline.plan import Plan, PlannedCue
from afstream.timeline.timeline import Timeline

__all__ = ["Cue", "LiveReader", "Moment", "Plan", "PlannedCue", "Timeline", "Unit"]
