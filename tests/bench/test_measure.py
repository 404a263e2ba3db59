"""Measurements: what is counted, what is not, and that nothing grows with the stream."""

import itertools
import json
import random
from dataclasses import replace

import pytest
import torch
from tests.engine.toy import toy_model

from afstream import stream as engine
from afstream.bench import Load, Machine, Measurement, Meter, Series, Stretch
from afstream.bench.machine import (
    checkout_commit,
    peak_device_bytes,
    peak_resident_bytes,
    resident_bytes,
)
from afstream.bench.series import MAX_STRETCHES, Stretches
from afstream.engine.chunk import ChunkTiming
from afstream.errors import ConfigError
from afstream.families.base import VideoModel
from afstream.families.pocket.vocabulary import telling_words, vocabulary
from afstream.spec import StreamConfig


@pytest.fixture(autouse=True)
def toy_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_toy(name: str, **settings: object) -> VideoModel:
        return toy_model()

    monkeypatch.setattr(engine, "open_model", open_toy)


def run(meter: Meter) -> Measurement:
    for _ in meter.run():
        pass
    return meter.result()


def test_everything_but_the_warm_up_is_counted():
    meter = Meter(Load(duration_s=6, switch_every_s=2, stretch_s=1.5))
    chunks = list(meter.run())
    result = meter.result()
    assert result.complete
    assert len(chunks) == result.chunks + 1
    assert result.frames == sum(len(chunk.frames) for chunk in chunks[1:])
    assert result.frames == sum(stretch.frames for stretch in result.stretches)
    assert result.frames + 9 >= 6 * result.fps
    # Asked for at 2 and 4 s, each answered by the next chunk.
    assert [chunk.index for chunk in chunks if chunk.receipts] == [0, 3, 6]
    assert result.switch_ms.count == result.parts_ms["recache"].count == 2
    assert result.parts_ms["all"].count == result.chunks


def test_the_parts_add_up():
    result = run(Meter(Load(duration_s=4, switch_every_s=0)))
    parts = result.parts_ms
    inside = sum(parts[part].mean for part in ("denoise", "context", "decode"))
    assert inside <= parts["total"].mean <= parts["all"].mean
    assert result.wall_s == pytest.approx(parts["all"].mean * result.chunks / 1000, abs=2e-3)
    assert result.rates.end_to_end == pytest.approx(result.frames / result.wall_s, rel=1e-2)
    assert result.rates.denoise >= result.rates.end_to_end
    assert 0 <= result.in_consumer <= result.outside_model < 1
    assert result.switch_ms.count == 0


def test_each_rate_counts_its_own_parts(monkeypatch: pytest.MonkeyPatch):
    """Every timed chunk takes 1 s to denoise, 0.25 s of context, 2 s to decode; a switch 4 s."""
    meter = Meter(Load(duration_s=6, switch_every_s=2))
    timing = ChunkTiming(
        switch_ms=4000, denoise_ms=1000, decode_ms=2000, context_ms=250, model_ms=3, total_ms=7
    )
    chunks = meter.stream.chunks
    monkeypatch.setattr(
        meter.stream,
        "chunks",
        lambda: (replace(chunk, timed=lambda: timing) for chunk in chunks()),
    )
    result = run(meter)
    count = result.chunks
    assert result.switch_ms.count == 2
    assert result.rates.denoise == pytest.approx(result.frames / (1.25 * count + 8), abs=0.01)
    assert result.rates.decode == pytest.approx(result.frames / (2 * count), abs=0.01)
    assert result.outside_model == pytest.approx(1 - 0.003 * count / result.wall_s, abs=0.01)
    assert result.rates.times_real_time == pytest.approx(
        result.rates.end_to_end / result.fps, abs=1e-3
    )
    means = {part: spread.mean for part, spread in result.parts_ms.items()}
    assert (means["denoise"], means["context"], means["decode"]) == (1000, 250, 2000)
    assert (means["recache"], means["total"]) == (4000, 7)


def test_the_consumer_gets_every_frame_and_its_time_counts():
    seen: list[int] = []
    meter = Meter(Load(duration_s=3))
    for _ in meter.run(lambda frames: seen.append(len(frames))):
        pass
    result = meter.result()
    assert sum(seen) == result.frames + 9
    assert result.parts_ms["consume"].count == result.chunks


def test_breaking_off_keeps_what_was_measured():
    meter = Meter(Load(duration_s=60))
    for chunk in meter.run():
        if chunk.index == 2:
            break
    result = meter.result()
    assert (result.chunks, result.complete) == (2, False)
    assert result.first_frame.warm_ms is None


def test_a_stream_of_one_chunk_has_latencies_only():
    result = run(Meter(Load(duration_s=0.5)))
    assert result.chunks == result.frames == 0
    assert result.rates.end_to_end == result.outside_model == 0
    assert result.late_to_early is result.growth_bytes is None
    assert result.first_frame.cold_ms > 0
    assert result.first_frame.warm_ms is not None


def test_the_result_is_json_and_names_what_it_holds_for():
    result = run(Meter(Load(duration_s=3, stretch_s=0.75, consumer="a test")))
    data = json.loads(json.dumps(result.as_data(), allow_nan=False))
    assert data["setup"]["consumer"] == "a test"
    assert data["setup"]["model"]["name"] == "pocket"
    assert (data["setup"]["seed"], data["setup"]["duration_s"]) == (0, 3)
    assert (data["model"]["memory"], data["model"]["backend"]) == ("anchor", "sdpa")
    assert data["machine"]["cores"] >= 1
    assert data["machine"]["torch"] == torch.__version__
    assert data["model"]["name"] == "toy"
    assert data["stretches"][0]["frames_per_s"] > 0
    assert data["late_to_early"] == pytest.approx(result.late_to_early)


def test_where_the_model_lies_is_kept_private(monkeypatch: pytest.MonkeyPatch):
    def open_toy(name: str, **settings: object) -> VideoModel:
        model = toy_model()
        model.details.update(path="/home/somebody/model", sha256="0")
        return model

    monkeypatch.setattr(engine, "open_model", open_toy)
    model = Meter(Load(duration_s=1)).result().model
    assert "path" not in model
    assert model["sha256"] == "0"


@pytest.mark.parametrize(
    "settings",
    [{"duration_s": 0}, {"stretch_s": 0}, {"switch_every_s": -1}, {"stream": StreamConfig()}],
)
def test_setups_that_measure_nothing_are_refused(settings: dict[str, float]):
    with pytest.raises(ConfigError):
        Load(**settings)  # pyright: ignore[reportArgumentType]


def test_the_pocket_model_knows_the_prompts():
    known = set(vocabulary())
    for prompt in Load().stream.prompts:
        assert set(telling_words(prompt)) <= known


def test_percentiles_are_those_of_all_values():
    generator = random.Random(0)
    values = [generator.lognormvariate(3, 1) for _ in range(4000)]
    series = Series()
    for value in values:
        series.add(value)
    spread, ordered = series.spread(), sorted(values)
    assert spread.count == 4000
    assert spread.mean == pytest.approx(sum(values) / 4000, abs=1e-3)
    assert spread.median == pytest.approx(ordered[1999], abs=1e-3)
    assert spread.p95 == pytest.approx(ordered[3799], abs=1e-3)
    assert spread.max == pytest.approx(ordered[-1], abs=1e-3)


def test_a_series_of_one_value_is_that_value():
    series = Series()
    series.add(0.0)
    assert series.spread().median == 0
    series = Series()
    series.add(12.5)
    spread = series.spread()
    assert spread.median == spread.p95 == spread.max == spread.mean == 12.5


def chunk_at(index: int) -> Stretch:
    return Stretch(
        start_s=0.75 * index,
        frames=12,
        wall_s=0.1,
        slowest_chunk_ms=float(index),
        resident_bytes=index,
        device_bytes=None,
    )


@pytest.mark.parametrize("count", [1, 5, MAX_STRETCHES, 10 * MAX_STRETCHES + 7])
def test_stretches_stay_few_and_lose_nothing(count: int):
    stretches = Stretches(length_s=0.75)
    for index in range(count):
        stretches.add(chunk_at(index))
    kept = stretches.read()
    assert len(kept) <= MAX_STRETCHES
    assert sum(stretch.frames for stretch in kept) == 12 * count
    assert sum(stretch.wall_s for stretch in kept) == pytest.approx(0.1 * count)
    assert kept[-1].slowest_chunk_ms == kept[-1].resident_bytes == count - 1
    starts = [stretch.start_s for stretch in kept]
    steps = {later - earlier for earlier, later in itertools.pairwise(starts)}
    assert len(steps) <= 1


def test_flat_and_not_flat_are_told_apart():
    result = run(Meter(Load(duration_s=3)))
    flat = tuple(chunk_at(index) for index in range(8))
    slower = tuple(
        Stretch(
            start_s=part.start_s,
            frames=part.frames,
            wall_s=0.1 * (1 + part.start_s),
            slowest_chunk_ms=0.0,
            resident_bytes=None,
            device_bytes=None,
        )
        for part in flat
    )
    assert with_stretches(result, flat).late_to_early == pytest.approx(1)
    assert with_stretches(result, flat).growth_bytes == 6
    late_to_early = with_stretches(result, slower).late_to_early
    assert late_to_early is not None
    assert late_to_early < 0.5
    assert with_stretches(result, slower).growth_bytes is None


def with_stretches(result: Measurement, stretches: tuple[Stretch, ...]) -> Measurement:
    return replace(result, stretches=stretches)


def test_memory_is_read():
    now, peak = resident_bytes(), peak_resident_bytes()
    if now is not None:
        assert peak is not None
        assert 2**20 < now <= peak
    assert peak_device_bytes(torch.device("cpu")) is None


def test_the_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert checkout_commit() is None
    assert Machine.here(torch.device("cpu")).commit is None
