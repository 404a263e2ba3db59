"""Reads and checks the options of a film."""

from __future__ import annotations

import os
from pathlib import Path

from afstream.errors import ConfigError
from afstream.film.files import SUBTITLES, is_record
from afstream.film.record import read_record, with_changes
from afstream.film.writing import BURN
from afstream.geometry import ChunkClock
from afstream.spec import StreamConfig
from afstream.timeline import Timeline


def check_report(*, quiet: bool, as_json: bool) -> None:
    """Refuse two kinds of report at once."""
    if quiet and as_json:
        raise ConfigError("--quiet and --json were both given; choose one of them")


def check_subtitles(given: str | None) -> None:
    """Refuse an unknown kind of subtitles."""
    known = (*SUBTITLES, BURN)
    if given not in (None, *known):
        raise ConfigError(f"--subtitles is {given!r}; choose one of {', '.join(known)}")


def exact_length(timeline: Timeline, clock: ChunkClock) -> int:
    """Video frames of a timeline's length, to the frame.

    Raises:
        ConfigError: it has none.
    """
    length = timeline.duration
    if length is None:
        raise ConfigError(
            "--exact needs a length; give --duration, or write @duration into the timeline"
        )
    if length.counts_latents:
        return timeline.plan(clock).num_video_frames
    return max(1, round(length.in_seconds(clock) * clock.fps))


def recorded_settings(prompts: Path, config: StreamConfig) -> StreamConfig:
    """The settings of a run whose record is given as the prompts, under those that are given."""
    if not is_record(prompts):
        return config
    record = read_record(prompts)
    return with_changes(record.config, config)


def model_files(config: StreamConfig) -> dict[str, Path]:
    """The files and folders that a model is read from, by what they are."""
    spec = config.model
    given = {
        "the model": spec.name,
        "the VAE": spec.vae,
        "the text encoder": spec.text_encoder_file,
    }
    given |= {f"the weights {path}": path for path in spec.files}
    paths = {what: Path(path) for what, path in given.items() if path}
    # unlike Path.exists, which raises for a name that is too long
    return {what: path for what, path in paths.items() if os.path.exists(path)}  # noqa: PTH110
