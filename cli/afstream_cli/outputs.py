"""The files of one run, and the check that they can be written before anything is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from afstream.errors import OutputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The files of one run.

    Attributes:
        video: the video, or the folder of PNGs.
        record: the run record.
        timeline: the timeline that replays a live run, None for other runs.
        sheet: the contact sheet, None when none is wanted.
    """

    video: Path
    record: Path
    timeline: Path | None
    sheet: Path | None

    @classmethod
    def beside(cls, video: Path, *, record: Path | None, sheet: Path | None, live: bool) -> Outputs:
        """The files of a run; those without a path of their own are put next to the video."""
        return cls(
            video=video,
            record=record or sibling(video, ".json"),
            timeline=sibling(video, ".timeline.txt") if live else None,
            sheet=sheet,
        )

    @property
    def others(self) -> tuple[Path, ...]:
        """Everything but the video."""
        return tuple(path for path in (self.record, self.timeline, self.sheet) if path)

    def check(self, prompts: str) -> None:
        """Check that each can be written, and that none replaces another or the prompts.

        Raises:
            OutputError: names the path at fault.
        """
        from afstream.video import check_output, probe

        if self.sheet and self.sheet.suffix.lower() != ".png":
            raise OutputError(f"the contact sheet {self.sheet} must end in .png")
        taken = {Path(prompts).resolve(): "the prompts"}
        named = {"the video": self.video, "the run record": self.record}
        named |= {"the replay": self.timeline} if self.timeline else {}
        named |= {"the contact sheet": self.sheet} if self.sheet else {}
        for name, path in named.items():
            other = taken.setdefault(path.resolve(), name)
            if other != name:
                raise OutputError(f"{path} is both {other} and {name}; choose another path")
        check_output(self.video)
        for path in self.others:
            try:
                probe(path)
            except OSError as error:
                raise OutputError.of(path, error) from error


def sibling(video: Path, suffix: str) -> Path:
    """The path of the video with another suffix."""
    return video.with_name(video.stem + suffix)


def write_whole(path: Path, text: str) -> None:
    """Replace a text file in one step, so that it is never seen half written.

    Raises:
        OutputError: it cannot be written; the old one is as it was.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError.of(path, error) from error


def refused(path: Path, error: OSError) -> OutputError:
    """The error for a path that cannot be written."""
    return OutputError.of(path, error)
