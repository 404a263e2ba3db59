"""One cue: a prompt, its start time, and how it takes over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from afstream.text import find_control, is_unicode, printable
from afstream.timeline.lines import NOWHERE, SHOWN_CHARS, Place, shown
from afstream.timeline.moment import DIGITS, LIMIT, Moment

Transition = Literal["switch", "cut"]
TRANSITIONS = ("switch", "cut")
MAX_PROMPT_CHARS = 20_000
MAX_SEED = 2**63 - 1
# of a timeline
MAX_CUES = 10_000
MAX_TOTAL_CHARS = 16_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A requested prompt change. Two cues are equal wherever they were written.

    Attributes:
        start: the requested time; the plan says when the cue takes effect.
        prompt: the text that the model gets, in one paragraph: runs of blanks become one.
        transition: "switch" keeps the scene and re-caches from the anchors, "cut" begins a fresh
            scene.
        blend_s: seconds over which the previous prompt fades into this one, 0 for none.
        seed: seed of the noise from this cue on, None to keep the one before.
        note: a remark for people and for the run record.
        place: where the cue stands in its file.
        blend_place: where its `blend=` stands.
    """

    start: Moment
    prompt: str
    transition: Transition = "switch"
    blend_s: float = 0.0
    seed: int | None = None
    note: str = ""
    place: Place = field(default=NOWHERE, compare=False, repr=False)
    blend_place: Place = field(default=NOWHERE, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Normalise the texts and refuse what cannot be played or printed."""
        object.__setattr__(self, "prompt", one_paragraph(self.prompt))
        object.__setattr__(self, "note", one_paragraph(self.note))
        object.__setattr__(self, "blend_s", round(float(self.blend_s), DIGITS) + 0.0)
        if fault := self._fault():
            raise self.place.error(fault)

    @property
    def line(self) -> int:
        """Line of the file it stands on, 0 when it was made in code."""
        return self.place.line

    def _fault(self) -> str:
        """What is wrong with this cue, empty when nothing is."""
        if not self.prompt:
            return "a cue has no prompt; describe what to show"
        for what, text in (("prompt", self.prompt), ("note", self.note)):
            if len(text) > MAX_PROMPT_CHARS:
                return (
                    f"a {what} has {len(text):,} characters; at most {MAX_PROMPT_CHARS:,} are"
                    " allowed; shorten it"
                )
            if (at := find_control(text)) is not None:
                kind = "the control character" if is_unicode(text[at]) else "half a surrogate pair,"
                before = shown(text[max(0, at - SHOWN_CHARS) : at])
                return f"a {what} holds {kind} {printable(text[at])} behind {before}; remove it"
        if self.transition not in TRANSITIONS:
            return f"transition is {self.transition!r}; write 'switch' or 'cut'"
        if not 0 <= self.blend_s < LIMIT:
            return f"a blend lasts {self.blend_s} s; it must be 0 or more"
        if self.blend_s and self.transition == "cut":
            return "a cut cannot blend, nothing of the old scene is left; choose one of the two"
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            return f"seed is {self.seed}; it must be from 0 to {MAX_SEED}"
        return ""


def one_paragraph(text: str) -> str:
    """The text with every run of blanks, line ends and byte-order marks made one blank."""
    return " ".join(text.replace("\ufeff", " ").split())
