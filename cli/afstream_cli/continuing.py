"""`afstream resume`, `extend` and `branch`: going on with a film that was made before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from afstream.errors import ConfigError
from afstream_cli import options

if TYPE_CHECKING:
    from afstream.film.files import FilmFiles
    from afstream.film.found import FoundFilm
    from afstream.timeline import Timeline

STDIN = "-"


def resume(
    *,
    film: options.Film,
    record: options.Record = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Go on with a film that was interrupted or killed, to the end of its timeline.

    It continues after its last whole chunk, with the frames that it would have had. A film that was
    made from standard input takes further prompts from there.
    """
    from afstream.film.found import FoundFilm

    found = FoundFilm.find(film, record=record)
    if found.is_finished:
        raise ConfigError(
            f"{found.video} is finished; afstream extend goes on after its end, branch from an"
            " earlier time"
        )
    timeline = None if found.record.live else found.timeline
    go_on(found, found.whole_chunks, timeline, prompts=None, quiet=quiet, as_json=as_json)


def extend(
    *,
    film: options.Film,
    prompts: options.More,
    record: options.Record = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Go on after the end of a film, under further prompts.

    Their times count from the film's end. With --prompts - they come from standard input. A film
    that was interrupted goes on after its last whole chunk.
    """
    from afstream.film.found import FoundFilm

    found = FoundFilm.find(film, record=record)
    chunk = found.whole_chunks
    if not chunk:
        raise ConfigError(f"{found.video} holds no whole chunk yet; begin it with afstream resume")
    timeline = follow(found, chunk, prompts)
    go_on(found, chunk, timeline, prompts=prompts, quiet=quiet, as_json=as_json)


def branch(
    *,
    film: options.Film,
    prompts: options.More,
    at: options.At,
    out: options.BranchOut = None,
    overwrite: options.Overwrite = False,
    record: options.Record = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Make another film that shares the past of this one, up to a time, and goes on otherwise.

    Times in the prompts count from there. The shared chunks are the same bit for bit.
    """
    from afstream.film.files import free_video
    from afstream.film.found import FoundFilm
    from afstream_cli.inputs import read_time

    found = FoundFilm.find(film, record=record)
    plan, whole = found.plan, found.whole_chunks
    chunk = plan.chunk_at(read_time(at, "--at"))
    if not 0 < chunk <= whole:
        first_s, last_s = (plan.frame_of_chunk(one) / plan.clock.fps for one in (1, whole))
        raise ConfigError(
            f"--at is {at}; a branch of {found.video} can begin from {first_s:g} s on, where its"
            f" second chunk begins, to {last_s:g} s, where its last whole one ends"
        )
    timeline = follow(found, chunk, prompts)
    files = found.files(out or free_video(found.video), live=timeline is None)
    files.check(
        {"the prompts": Path(prompts), "the film": found.video, "the film's record": found.path},
        overwrite=overwrite,
    )
    go_on(
        *(found, chunk, timeline),
        prompts=prompts,
        files=files,
        overwrite=overwrite,
        quiet=quiet,
        as_json=as_json,
    )


def begun_film(out: Path | None, record: Path | None) -> FoundFilm | None:
    """The film that `generate --resume` goes on with; None where there is none yet.

    Raises:
        ConfigError: no output was named.
        OutputError: what is there cannot be gone on with.
    """
    from afstream.film.files import FilmFiles
    from afstream.film.found import FoundFilm

    if out is None:
        raise ConfigError("--resume needs --out, the film to go on with")
    path = FilmFiles.beside(out, record=record).record
    return FoundFilm.find(out, record=record) if path and path.exists() else None


def resume_begun(
    found: FoundFilm, timeline: Timeline, *, dry_run: bool, quiet: bool, as_json: bool
) -> None:
    """Go on with a film if it is of this timeline, or only see that it can be gone on with.

    A finished one stays as it is.

    Raises:
        ConfigError: it was made from another timeline.
    """
    if str(timeline) != found.record.timeline:
        raise ConfigError(
            f"{found.video} was made from another timeline, seed or duration than is given; choose"
            " another --out, or replace it with --overwrite instead of --resume"
        )
    if not found.is_finished:
        go_on(
            *(found, found.whole_chunks, timeline),
            prompts=None,
            dry_run=dry_run,
            quiet=quiet,
            as_json=as_json,
        )


def follow(found: FoundFilm, chunk: int, prompts: str) -> Timeline | None:
    """The timeline of a film that goes on with other prompts from a chunk on.

    Returns:
        None where they come from standard input.
    """
    from afstream.timeline.imports import ImportOptions
    from afstream_cli.inputs import read_timeline

    if prompts == STDIN:
        return None
    given = ImportOptions(clock=found.plan.clock)
    more = read_timeline(Path(prompts), given, seed=None, duration=None)
    timeline = found.followed(more, chunk)
    # a fault in it must be reported before a model is loaded
    timeline.plan(found.plan.clock)
    return timeline


def go_on(
    found: FoundFilm,
    chunk: int,
    timeline: Timeline | None,
    *,
    prompts: str | None,
    files: FilmFiles | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make the rest of a film, or of its branch.

    Args:
        found: the film.
        chunk: chunks of it that are kept.
        timeline: what is played, the kept part included; None for prompts from standard input.
        prompts: the file of further prompts, `-` for standard input, None where there are none.
        files: those of a branch.
        overwrite: see `FilmOptions`.
        dry_run: only see that it can be made; not of a branch.
        quiet: print warnings only.
        as_json: print lines of JSON.
    """
    from afstream_cli.film_options import check_report, model_files
    from afstream_cli.making import GoingOn, Making, make, rehearse

    check_report(quiet=quiet, as_json=as_json)
    config, wanted = found.record.config, found.options
    if prompts:
        # the old length is not the new one's
        wanted = replace(wanted, exact_frames=None, overwrite=overwrite)
    known = (timeline or found.timeline).cues
    config = replace(config, prompts=tuple(cue.prompt for cue in known) if timeline else ())
    own = files is None
    files = files or found.files(live=timeline is None)
    making = Making(
        config=config,
        files=files,
        options=wanted,
        timeline=timeline,
        going_on=GoingOn(film=found, chunks=chunk, branch=found.video != files.video),
    )
    inputs = model_files(config)
    if prompts and prompts != STDIN:
        inputs["the prompts"] = Path(prompts)
    if dry_run:
        rehearse(making, inputs, overwrite=True)
        return
    if own:
        files.check(inputs, overwrite=True)
    make(making, quiet=quiet, as_json=as_json)
