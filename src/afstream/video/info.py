"""What is written into a film besides its pictures: its settings, its title and its tags."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from afstream.errors import ConfigError, OutputError
from afstream.video.picture import Picture

ENCODER = "afstream"
OWN_TAGS = ("title", "encoder", "size", "scale", "fps", "crf")
# A QuickTime text holds 65,535 bytes, and some space is left for the title.
MAX_TAG_BYTES = 60_000
MAX_TITLE_BYTES = 250
# Controls, halves of surrogate pairs, and the separators of lines and paragraphs.
CONTROLS = ("Cc", "Cs", "Zl", "Zp")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmInfo:
    """What a file is to hold, all of which it says of itself.

    All tags stand as JSON in the one comment that every container has and every player keeps.

    Attributes:
        picture: size and rate.
        crf: the encoder's constant rate factor; None where pictures are kept exactly.
        title: for players.
        tags: whatever else the caller wants to find again.

    Raises:
        ConfigError: a tag has a name that is taken, or there is too much of them.
    """

    picture: Picture
    crf: int | None = None
    title: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if taken := [name for name in self.tags if name in OWN_TAGS]:
            raise ConfigError(f"a film's tag cannot be called {taken[0]!r}, which afstream writes")
        if len(self.comment) > MAX_TAG_BYTES:
            raise ConfigError(
                f"the tags of a film take {len(self.comment)} bytes; at most {MAX_TAG_BYTES} fit"
            )

    @property
    def settings(self) -> dict[str, str]:
        """What must agree when a film is gone on with."""
        picture = self.picture
        settings = {
            "size": f"{picture.width_px}x{picture.height_px}",
            "scale": str(picture.scale),
            "fps": str(picture.fps),
        }
        return settings if self.crf is None else settings | {"crf": str(self.crf)}

    @property
    def comment(self) -> str:
        """All tags as JSON, in ASCII."""
        own = {"encoder": ENCODER, "title": self.shown_title}
        return json.dumps(own | self.settings | dict(self.tags))

    @property
    def shown_title(self) -> str:
        """The title as one line that fits into every container."""
        return one_line(self.title)

    @property
    def metadata(self) -> dict[str, str]:
        """What a muxer of FFmpeg is given."""
        title = {"title": self.shown_title} if self.shown_title else {}
        return title | {"comment": self.comment}

    def check_agrees(self, path: object, tags: Mapping[str, str]) -> None:
        """Check that an existing film was made with the same settings.

        Raises:
            OutputError: afstream did not write it, or a setting differs.
        """
        if not tags:
            raise OutputError(f"{path} was not written by afstream, so it cannot be gone on with")
        for name, value in self.settings.items():
            found = tags.get(name, "none")
            if found != value:
                raise OutputError(
                    f"{path} has {name} {found}, and {value} is asked for; a film goes on with the"
                    " settings that it was begun with"
                )


@dataclass(frozen=True, slots=True)
class Past:
    """What a film begins with when it goes on from another one.

    Attributes:
        path: an existing film, which may be the one that is written.
        frames: how many of its frames; a chunk must end there.
    """

    path: Path
    frames: int


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of a film that players can jump to; it lasts until the next one.

    Attributes:
        start_s: seconds from the start of the film.
        title: such as a prompt.
    """

    start_s: float
    title: str


def tags_in(comment: str) -> dict[str, str]:
    """The tags in a file's comment; empty when afstream did not write it."""
    try:
        found = json.loads(comment)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    tags = {name: value for name, value in found.items() if isinstance(value, str)}
    return tags if tags.get("encoder") == ENCODER else {}


def chapter_spans(
    chapters: Sequence[Chapter], *, frames: int, fps: int
) -> list[tuple[int, int, str]]:
    """First frame, end and title of each chapter that has a frame in the film."""
    starts = [min(max(round(chapter.start_s * fps), 0), frames) for chapter in chapters]
    spans = zip(starts, [*starts, frames][1:], chapters, strict=True)
    return [(start, end, one_line(chapter.title)) for start, end, chapter in spans if start < end]


def one_line(text: str) -> str:
    """A text without line breaks and control characters, of 250 bytes of UTF-8 at most."""
    line = " ".join(without_controls(text).split()).encode()
    return line[:MAX_TITLE_BYTES].decode(errors="ignore")


def without_controls(text: str) -> str:
    """A text with spaces in place of control characters and of what is no character."""
    return "".join(" " if unicodedata.category(c) in CONTROLS else c for c in text)
