"""The run record: what a film is made of, how far it has come, and how fast."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from afstream.atomic import write_text
from afstream.errors import ConfigError, OutputError, reason_of
from afstream.families.base import PLACES
from afstream.film.files import BESIDE_KEY, MAX_RECORD_BYTES, RECORD_KEY
from afstream.film.versions import versions
from afstream.spec import ModelSpec, StreamConfig, TextPlace, split_scale
from afstream.timeline.cue import MAX_SEED, Transition
from afstream.validation import SettingsFile, validated

if TYPE_CHECKING:
    from afstream.families.base import VideoModel
    from afstream.film.states import StateStore
    from afstream.film.tally import Tally
    from afstream.stream import Chunk, Stream
    from afstream.timeline.plan import PlannedCue
    from afstream.video import VideoWriter

FORMAT = 2
RUN_DIGITS = 16
State = Literal["running", "finished", "interrupted", "failed"]
Count = Annotated[int, Field(ge=0, le=10**12)]
Side = Annotated[int, Field(ge=1, le=2**16)]


class StreamSettings(SettingsFile):
    """How the stream of a film was opened, all choices made; see `StreamConfig`."""

    model: str
    student: str | None = None
    loras: tuple[str, ...] = ()
    vae: str | None = None
    text_encoder_file: str | None = None
    text: TextPlace | None = None
    offload: Annotated[int, Field(ge=0, le=1000)] = 0
    device: str
    dtype: str
    size: tuple[Side, Side]
    memory: str
    junction: str | None = None
    preset: str | None = None
    backend: str
    compiled: bool = False
    graphs: bool = True
    ahead: bool | None = None
    threads: Annotated[int, Field(ge=1, le=1024)]

    @classmethod
    def of(cls, stream: Stream) -> StreamSettings:
        """Those of an open stream; paths are made absolute, so that they hold elsewhere."""
        config, backbone = stream.config, stream.model.backbone
        spec = config.model
        return cls(
            model=_absolute(spec.name),
            student=spec.student and _absolute(spec.student),
            loras=tuple(_absolute_lora(lora) for lora in spec.loras),
            vae=spec.vae and _absolute(spec.vae),
            text_encoder_file=spec.text_encoder_file and _absolute(spec.text_encoder_file),
            text=spec.text,
            offload=spec.offload,
            device=str(backbone.device),
            dtype=str(backbone.dtype).removeprefix("torch."),
            size=stream.size,
            memory=stream.policy.name,
            junction=config.junction,
            preset=config.preset,
            backend=stream.backend.name,
            compiled=stream.compiled,
            graphs=config.graphs,
            ahead=config.ahead,
            threads=stream.threads,
        )

    def config(self, *, seed: int) -> StreamConfig:
        """The settings that open the same stream again."""
        return StreamConfig(
            model=ModelSpec(
                name=self.model,
                student=self.student,
                loras=self.loras,
                vae=self.vae,
                text_encoder_file=self.text_encoder_file,
                text=self.text,
                offload=self.offload,
                device=self.device,
                dtype=self.dtype,
            ),
            seed=seed,
            size=self.size,
            memory=self.memory,
            junction=self.junction,
            preset=self.preset,
            backend=self.backend,
            compiled=self.compiled,
            graphs=self.graphs,
            ahead=self.ahead,
        )


class OutputSettings(SettingsFile):
    """The video of a film, and how far it has come.

    Attributes:
        path: name of the video, beside the record unless it has folders of its own.
        frames: video frames that the file holds at least.
        crf: quality of the encoder, None where it has none.
        exact_frames: video frames at which the film is cut off within a chunk.
        sheet: path of the contact sheet.
        subtitles: what `--subtitles` was given.
        states: whether states are saved.
    """

    path: str
    frames: Count = 0
    chunks: Count = 0
    fps: Annotated[int, Field(ge=1, le=1000)]
    scale: Annotated[int, Field(ge=1, le=1000)]
    crf: Annotated[int, Field(ge=0, le=63)] | None = None
    exact_frames: Count | None = None
    sheet: str | None = None
    subtitles: str | None = None
    states: bool = True


class Origin(SettingsFile):
    """The film that a branch shares its first chunks with."""

    film: str
    run: str
    chunks: Count


class CueEntry(SettingsFile):
    """A prompt change that took effect."""

    segment: int
    prompt: str
    transition: Transition
    blend_s: float
    seed: int | None
    note: str
    requested_s: float
    effective_s: float
    slip_s: float
    chunk: Count
    switch_ms: float | None

    @classmethod
    def of(cls, chunk: Chunk) -> CueEntry:
        """The change that took effect with a chunk: of several, the last."""
        receipt = chunk.receipts[-1]
        cue = receipt.cue
        return cls(
            segment=chunk.segment,
            prompt=cue.prompt,
            transition=cue.transition,
            blend_s=cue.blend_s,
            seed=cue.seed,
            note=cue.note,
            requested_s=receipt.requested_s,
            effective_s=chunk.start_s,
            slip_s=round(chunk.start_s - receipt.requested_s, 6),
            chunk=chunk.index,
            switch_ms=receipt.switch_ms,
        )

    @classmethod
    def planned(cls, planned: PlannedCue, segment: int) -> CueEntry:
        """The change as a plan has it, where no run has told of it."""
        cue = planned.cue
        return cls(
            segment=segment,
            prompt=cue.prompt,
            transition=cue.transition,
            blend_s=cue.blend_s,
            seed=cue.seed,
            note=cue.note,
            requested_s=planned.requested_s,
            effective_s=planned.effective_s,
            slip_s=round(planned.slip_s, 6),
            chunk=planned.chunk,
            switch_ms=None,
        )


class Timings(SettingsFile):
    """How fast a run was, as far as going on with it needs to know."""

    frames_per_s: Annotated[float, Field(ge=0)] = 0.0


class RunRecord(SettingsFile):
    """A run record as it is read; `RecordWriter` writes it.

    Attributes:
        run: names the run; the video's metadata hold the same.
        state: how the run ended; `running` when the process was killed.
        live: whether the prompts came while it ran.
        timeline: the text of the timeline; of a live run, what it has come to.
        model: name and details of the model.
        origin: set where the film is a branch of another.
    """

    run: Annotated[str, Field(max_length=64)]
    state: State
    live: bool = False
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    timeline: str
    output: OutputSettings
    stream: StreamSettings
    model: dict[str, str]
    origin: Origin | None = None
    cues: tuple[CueEntry, ...] = ()
    timings: Timings = Timings()

    @property
    def config(self) -> StreamConfig:
        """The settings that open the run's stream again."""
        return self.stream.config(seed=self.seed)


@dataclass(slots=True, kw_only=True)
class RecordWriter:
    """One run, as data; only the list of cues grows with it.

    Attributes:
        path: where it is written; None where no record is kept.
        run: see `RunRecord`.
        timeline: likewise, as text.
        output: the video's settings.
        stream: the stream's.
        described: model, memory, size and all else that describes the stream, plain data.
        live: see `RunRecord`.
        seed: likewise.
        load_s: seconds that the model took to load.
        origin: see `RunRecord`.
        state: likewise.
        error: the message of the error that ended a failed run.
        beside: names of the film's files that cannot say themselves whose they are.
        cues: every prompt that took effect.
    """

    path: Path | None
    run: str
    timeline: str
    output: OutputSettings
    stream: StreamSettings
    described: Mapping[str, object]
    live: bool = False
    seed: int = 0
    load_s: float = 0.0
    origin: Origin | None = None
    state: State = "running"
    error: str | None = None
    beside: tuple[str, ...] = ()
    cues: list[CueEntry] = field(default_factory=list[CueEntry])

    def write(self, writer: VideoWriter, tally: Tally, states: StateStore, *, chunks: int) -> None:
        """Replace the file in one step.

        Args:
            writer: the video as it is.
            tally: times of this run.
            states: the saved states.
            chunks: chunks in the video.

        Raises:
            OutputError: it cannot be written; the old one is as it was.
        """
        if self.path:
            write_text(
                self.path, json.dumps(self._as_data(writer, tally, states, chunks), indent=2) + "\n"
            )

    def _as_data(
        self, writer: VideoWriter, tally: Tally, states: StateStore, chunks: int
    ) -> dict[str, object]:
        width, height = writer.picture.size
        done = {"frames": writer.frames, "chunks": chunks}
        return {
            RECORD_KEY: FORMAT,
            BESIDE_KEY: list(self.beside),
            "run": self.run,
            "state": self.state,
            "error": self.error,
            "output": {
                **self.output.model_copy(update=done).model_dump(),
                "seconds": writer.seconds,
                "width_px": width,
                "height_px": height,
            },
            **self.described,
            "live": self.live,
            "seed": self.seed,
            "timeline": self.timeline,
            "origin": self.origin and self.origin.model_dump(),
            "cues": [cue.model_dump() for cue in self.cues],
            "stream": self.stream.model_dump(),
            "states": {"bytes": states.bytes},
            "timings": {
                "load_s": round(self.load_s, 3),
                "states_s": round(states.spent_s, 3),
                **tally.summary(),
            },
            "versions": versions(),
        }


def read_record(path: Path) -> RunRecord:
    """Read a run record.

    Raises:
        OutputError: there is none, it cannot be read, or it is of an older afstream.
    """
    try:
        if not path.is_file():
            raise OutputError(
                f"there is no run record {path}; give a film that afstream made, with its record"
                " beside it"
            )
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise OutputError(f"{path} is too large for a run record; give afstream's own")
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise OutputError(f"cannot read {path} ({reason_of(error)})") from error
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path} is no run record: it is no JSON; give afstream's own") from error
    number = content.get(RECORD_KEY) if isinstance(content, dict) else None
    if number != FORMAT:
        known = "is no run record of afstream" if number is None else f"has the format {number!r}"
        raise OutputError(f"{path} {known}; give a record of format {FORMAT}")
    return validated(RunRecord, content, source=str(path), error=OutputError)


def describe_run(stream: Stream) -> dict[str, object]:
    """What a record says about the stream beside the settings that open it again."""
    model = stream.model
    width, height = stream.size
    return {
        "model": {"name": model.name, **model.details},
        "memory": stream.policy.settings,
        "size_px": [width, height],
        "device": str(model.backbone.device),
        "dtype": str(model.backbone.dtype).removeprefix("torch."),
        "backend": stream.backend.name,
        "compiled": stream.compiled,
        "graphs": stream.graphs,
        "memory_estimate": stream.estimate and stream.estimate.as_data(),
    }


def run_name(*decides: object, live: bool) -> str:
    """The name of a run: from all that decides its frames, so that equal films have equal bytes.

    What is typed into a live run is not known yet; its name is drawn by chance.
    """
    if live:
        return secrets.token_hex(RUN_DIGITS // 2)
    text = json.dumps(decides, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:RUN_DIGITS]


def with_changes(recorded: StreamConfig, given: StreamConfig) -> StreamConfig:
    """A recorded configuration, and over it whatever was given that is no default."""
    spec, default = given.model, ModelSpec()
    if spec != default and spec.name != recorded.model.name:
        model = spec
    else:
        model = replace(recorded.model, **_differing(spec, default))
    changes = _differing(given, StreamConfig(model=spec))
    return replace(recorded, model=model, **changes)


def _differing(given: object, default: object) -> dict[str, object]:
    names = type(default).__dataclass_fields__  # pyright: ignore[reportAttributeAccessIssue]
    values = ((name, getattr(given, name)) for name in names)
    return {name: value for name, value in values if value != getattr(default, name)}


def _absolute(name: str) -> str:
    """A path made absolute; a model's name stays as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _absolute_lora(given: str) -> str:
    path, _ = split_scale(given)
    return _absolute(str(path)) + given.removeprefix(str(path))


def refuse_other_model(record: RunRecord, model: VideoModel, film: Path) -> None:
    """Refuse to go on with other weights than a film was begun with.

    Raises:
        ConfigError: name or details of the model differ.
    """
    now = model.identity
    was = {name: text for name, text in record.model.items() if name not in PLACES}
    differing = sorted(name for name in now.keys() | was if now.get(name) != was.get(name))
    if differing:
        name = differing[0]
        raise ConfigError(
            f"{film} was made with another model: its {name} was {was.get(name)!r} and is"
            f" {now.get(name)!r}; give back the files that it was made with"
        )
