"""The files of one film, and the check that nothing of anyone else's is replaced."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from afstream.atomic import sweep
from afstream.errors import OutputError
from afstream.lock import hold
from afstream.paths import FILE, FOLDER, kind_at
from afstream.video.kinds import check_output, goes_on, taken

# the key by which a run record is known
RECORD_KEY = "afstream_record"
# and by which it lists the names of files beside it that have no mark of their own
BESIDE_KEY = "beside"
# the first line of a replay, by which it is known
REPLAY_MARK = "# afstream replay"
REPLAY_SUFFIX = ".timeline.txt"
DEFAULT_VIDEO = "out.mp4"
STDOUT = "-"
# what subtitles are called that are a file
SUBTITLES = ("srt", "vtt")
MAX_RECORD_BYTES = 64_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmFiles:
    """The files of one film.

    Attributes:
        video: the video, the folder of PNGs, or `-` for standard output.
        record: the run record; None for a film that is streamed.
        states: folder of saved states; None where none are saved.
        replay: the timeline that replays a live run, None for other runs.
        sheet: the contact sheet, None when none is wanted.
        subtitles: the subtitles, None when none are wanted.
    """

    video: Path
    record: Path | None
    states: Path | None = None
    replay: Path | None = None
    sheet: Path | None = None
    subtitles: Path | None = None

    @classmethod
    def beside(
        cls,
        video: Path,
        *,
        record: Path | None = None,
        sheet: Path | None = None,
        subtitles: str | None = None,
        live: bool = False,
        states: bool = True,
    ) -> FilmFiles:
        """The files of a film; those without a path of their own are put next to the video.

        Args:
            video: see the attribute.
            record: path of the run record.
            sheet: path of the contact sheet.
            subtitles: srt or vtt; anything else is no file.
            live: whether a replay is written.
            states: whether states are saved.

        Raises:
            OutputError: the path of the video names no file.
        """
        if str(video) == STDOUT:
            return cls(video=video, record=record, sheet=sheet)
        if not video.name or video.name == os.pardir:
            raise OutputError(
                f"the output {str(video)!r} names no file; give a path such as {DEFAULT_VIDEO}"
            )
        return cls(
            video=video,
            record=record or sibling(video, ".json"),
            states=sibling(video, ".state") if states and goes_on(video) else None,
            replay=sibling(video, REPLAY_SUFFIX) if live else None,
            sheet=sheet,
            subtitles=sibling(video, f".{subtitles}") if subtitles in SUBTITLES else None,
        )

    @property
    def go_on(self) -> bool:
        """Whether the film can be resumed, extended and branched."""
        return self.record is not None and goes_on(self.video)

    @property
    def others(self) -> tuple[Path, ...]:
        """Every file but the video and the states."""
        found = (self.record, self.replay, self.sheet, self.subtitles)
        return tuple(path for path in found if path)

    def check(self, inputs: Mapping[str, Path], *, overwrite: bool) -> None:
        """Check that each can be written, and that none replaces what must be kept.

        Args:
            inputs: files and folders that the run reads, by what they are ("the prompts").
            overwrite: whether an earlier film in the same place may be replaced.

        Raises:
            OutputError: names the path at fault.
        """
        if self.sheet and self.sheet.suffix.lower() != ".png":
            raise OutputError(f"the contact sheet {self.sheet} must end in .png")
        self._refuse_shared(inputs)
        check_video(self.video, overwrite=overwrite)
        for path, what, is_ours in self._claims():
            try:
                _check_file(path, what, is_ours, overwrite=overwrite)
            except OSError as error:
                raise OutputError.of(path, error) from error
        if self.states:
            _check_states(self.states, overwrite=overwrite)

    @contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Keep other runs from these files until the block is left, or the process ends.

        Raises:
            OutputError: another run is writing them.
        """
        with self._held():
            if str(self.video) != STDOUT:
                for path in (self.video, *self.others):
                    sweep(path.parent, path.name)
                if self.states:
                    sweep(self.states)
            yield

    @contextmanager
    def rehearsed(self, inputs: Mapping[str, Path], *, overwrite: bool) -> Generator[None]:
        """See that they could be checked and locked; folders made on the way are removed again.

        Raises:
            OutputError: see `check` and `locked`.
        """
        paths = [path for path in (self.video, *self.others) if str(path) != STDOUT]
        above = {folder for path in paths for folder in path.absolute().parents}
        made = [folder for folder in above if not kind_at(folder)]
        try:
            self.check(inputs, overwrite=overwrite)
            with self._held():
                yield
        finally:
            for folder in sorted(made, key=lambda folder: len(folder.parts), reverse=True):
                with suppress(OSError):
                    folder.rmdir()

    @contextmanager
    def _held(self) -> Generator[None]:
        """Hold the locks of the files."""
        with ExitStack() as held:
            if str(self.video) != STDOUT:
                # videos that differ in the suffix alone share what stands beside them
                shared = sibling(self.video, ".json")
                held.enter_context(hold(shared, what="output"))
                if self.record and self.record.absolute() != shared.absolute():
                    held.enter_context(hold(self.record, what="output"))
            yield

    def remove_stale(self) -> None:
        """Remove what stands beside an earlier film in the same place."""
        if not self.record:
            return
        replay = sibling(self.video, REPLAY_SUFFIX)
        stale = [self.sheet, *self._listed]
        if kind_at(replay) == FILE and is_replay(replay):
            stale.append(replay)
        for path in filter(None, stale):
            with suppress(OSError):
                path.unlink()

    def _refuse_shared(self, inputs: Mapping[str, Path]) -> None:
        """Refuse two outputs in one place, and an output in the place of an input."""
        named = {
            "the video": self.video,
            "the run record": self.record,
            "the folder of saved states": self.states,
            "the replay": self.replay,
            "the contact sheet": self.sheet,
            "the subtitles": self.subtitles,
        }
        taken = [(_place(path), what) for what, path in inputs.items()]
        for what, path in named.items():
            if path is None or str(path) == STDOUT:
                continue
            place = _place(path)
            for other, owner in taken:
                if place & other:
                    raise OutputError(f"{path} is both {owner} and {what}; choose another path")
            taken.append((place, what))

    def _claims(self) -> list[tuple[Path, str, Callable[[Path], bool] | None]]:
        """Paths beside the video, what each is, and how one of ours is known.

        What the user named may be replaced when the user says so; what we named only if it is ours.
        """
        claims = (
            (self.record, "run record", is_record),
            (self.replay, "replay", is_replay),
            (self.sheet, "contact sheet", None),
            (self.subtitles, "subtitle file", self._listed.__contains__),
        )
        return [(path, what, is_ours) for path, what, is_ours in claims if path]

    @property
    def _listed(self) -> list[Path]:
        """Subtitles of which an earlier record says that they belong to its film."""
        names = (_read(self.record) or {}).get(BESIDE_KEY) if self.record else None
        subtitles = (sibling(self.video, f".{kind}") for kind in SUBTITLES)
        # a record may be anyone's, and say anything
        return [path for path in subtitles if isinstance(names, list) and path.name in names]


def check_video(video: Path, *, overwrite: bool) -> None:
    """Check that a video can be written, and that none is replaced unless that is wanted.

    Raises:
        OutputError: the place is taken, cannot be written to, or the suffix is unknown.
    """
    check_output(video)
    if taken(video) and not overwrite:
        raise OutputError(
            f"{video} exists already; give --overwrite to replace it, or choose another path"
        )


def sibling(video: Path, suffix: str) -> Path:
    """The path of the video with another suffix."""
    return video.with_name(video.stem + suffix)


def free_video(first: Path = Path(DEFAULT_VIDEO)) -> Path:
    """The first of `out.mp4`, `out-2.mp4`, `out-3.mp4` ... beside which nothing stands yet."""
    for number in count(1):
        name = f"{first.stem}-{number}{first.suffix}" if number > 1 else first.name
        video = first.with_name(name)
        taken = (video, *(sibling(video, suffix) for suffix in (".json", ".state")))
        if not any(kind_at(path) for path in taken):
            return video
    raise AssertionError("numbers do not end")


def is_record(path: Path) -> bool:
    """Whether a file is a run record of afstream."""
    return _read(path) is not None


def _read(path: Path) -> dict[str, Any] | None:
    """A run record as it stands, unchecked; None for anything else."""
    try:
        # what is no file, such as a pipe, could be read once only
        if not path.is_file() or path.stat().st_size > MAX_RECORD_BYTES:
            return None
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and RECORD_KEY in content else None


def is_replay(path: Path) -> bool:
    """Whether a file is the timeline of a live run, as afstream writes it."""
    with path.open("rb") as file:
        return file.read(len(REPLAY_MARK)) == REPLAY_MARK.encode()


def _place(path: Path) -> set[object]:
    """What two paths of one file share: its resolved path, or device and number of the file."""
    try:
        place: set[object] = {os.path.realpath(path)}
    except ValueError as error:
        raise OutputError(f"{str(path)!r} is no path ({error}); choose another path") from error
    with suppress(OSError):
        there = path.stat()
        place.add((there.st_dev, there.st_ino))
    return place


def _check_states(folder: Path, *, overwrite: bool) -> None:
    """Check the folder of saved states."""
    kind = kind_at(folder)
    if kind not in ("", FOLDER):
        raise OutputError(
            f"{folder} is {kind}, and saved states need a folder of this name; rename it, or give"
            " --no-state"
        )
    if kind and not overwrite and any(folder.iterdir()):
        raise OutputError(
            f"{folder} holds the saved states of another film; give --overwrite to replace them, or"
            " choose another path for the video"
        )


def _check_file(
    path: Path, what: str, is_ours: Callable[[Path], bool] | None, *, overwrite: bool
) -> None:
    """Check one file beside the video; the system's refusals are an `OSError`."""
    kind = kind_at(path)
    if not kind:
        path.parent.mkdir(parents=True, exist_ok=True)
        # whether the folder can be written, without a trace
        with tempfile.TemporaryFile(dir=path.parent):
            return
    if kind != FILE:
        raise OutputError(f"the {what} {path} is {kind}; give the path of a file")
    if is_ours and not is_ours(path):
        raise OutputError(
            f"{path} is there already and is no {what} of afstream, so it is not replaced; choose"
            " another path for the video, or rename it"
        )
    if not overwrite:
        raise OutputError(
            f"the {what} {path} exists already; give --overwrite to replace it, or choose another"
            " path"
        )
    if not os.access(path, os.W_OK):
        raise OutputError(f"cannot write {path} (permission denied); choose another path")
