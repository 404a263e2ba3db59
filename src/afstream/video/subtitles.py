"""Captions beside a film: the texts of .srt and .vtt files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from afstream.video.info import without_controls

ARROW = "-->"
# The same in other characters, since an arrow ends a text in both formats.
SAFE_ARROW = "->"
ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


@dataclass(frozen=True, slots=True)
class Caption:
    """A text that is shown for a while.

    Attributes:
        start_s: when it appears, seconds from the start of the film.
        stop_s: when it disappears.
        text: may have several lines.
    """

    start_s: float
    stop_s: float
    text: str


def srt(captions: Iterable[Caption]) -> str:
    """The text of a SubRip file."""
    shown = ((caption, plain(caption.text)) for caption in captions)
    return "".join(
        f"{number}\n{times(caption, ',')}\n{text}\n\n"
        for number, (caption, text) in enumerate(((c, t) for c, t in shown if t), 1)
    )


def vtt(captions: Iterable[Caption]) -> str:
    """The text of a WebVTT file."""
    shown = ((caption, plain(caption.text)) for caption in captions)
    return "WEBVTT\n\n" + "".join(
        f"{times(caption, '.')}\n{text.translate(str.maketrans(ESCAPES))}\n\n"
        for caption, text in shown
        if text
    )


def plain(text: str) -> str:
    """A text without blank lines, control characters and arrows, which mean something here."""
    lines = (" ".join(without_controls(line).split()) for line in text.splitlines())
    kept = "\n".join(line for line in lines if line)
    while ARROW in kept:
        kept = kept.replace(ARROW, SAFE_ARROW)
    return kept


def times(caption: Caption, point: str) -> str:
    """The line that says when a caption is shown."""
    return f"{clock(caption.start_s, point)} {ARROW} {clock(caption.stop_s, point)}"


def clock(seconds: float, point: str) -> str:
    """A time such as 00:01:02.500; hours take more digits where they need them."""
    milliseconds = max(round(seconds * 1000), 0)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minute = divmod(minutes, 60)
    second, thousandth = divmod(rest, 1000)
    return f"{hours:02d}:{minute:02d}:{second:02d}{point}{thousandth:03d}"
