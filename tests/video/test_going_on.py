"""A film that is gone on with is bit for bit the one that was never interrupted."""

import io
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.crash_points import crash_points
from tests.video.films import SIZE, chunk_of, read

from afstream.atomic import replace_file
from afstream.errors import OutputError
from afstream.video import Chapter, Past, VideoWriter, frames_in, read_tags

CHUNKS = 4
# A scene's first chunk is shorter.
LENGTHS = (9, 12, 12, 12)
STARTS = (0, 9, 21, 33, 45)
TAGS = {"run": "a1b2", "settings": '{"seed": 7}'}
CHAPTERS = (Chapter(0, "a red star"), Chapter(0.56, "ein grüner Ball\nspringt"))
FILES = ("film.mp4", "film.mov", "film.m4v", "film.MKV")


def open_film(path, **given: Any):
    usual: Any = {"title": "A red star", "tags": TAGS, "scale": 2, "fps": 16, "size": SIZE}
    return VideoWriter.open(path, **usual | given)


def add(writer, first, last=CHUNKS):
    for index in range(first, last):
        writer.write(chunk_of(index)[: LENGTHS[index]])


def made(path, first=0, last=CHUNKS, finish=False, **given):
    with open_film(path, **given) as writer:
        add(writer, first, last)
        if finish:
            assert writer.finish(CHAPTERS) is None
    return contents(path)


def contents(path):
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir()}
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a film made in one go: growing and finished, by name."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        name: tuple(made(folder / f"{finish}" / name, finish=finish) for finish in (False, True))
        for name in (*FILES, "film")
    }


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("done", range(1, CHUNKS))
def test_a_torn_film_goes_on(tmp_path, whole, name, done):
    path = tmp_path / name
    grown, finished = whole[name]
    writer = open_film(path)
    add(writer, 0, done)
    length = path.stat().st_size
    writer.write(chunk_of(done)[: LENGTHS[done]])
    # Dropped without an end, and torn within its last chunk.
    encoder: Any = writer._encoder
    encoder._file.close()
    assert grown.startswith(path.read_bytes())
    with path.open("r+b") as file:
        file.truncate((length + path.stat().st_size) // 2)
    assert frames_in(path) == STARTS[done]
    with open_film(path, past=Past(path, STARTS[done])) as writer:
        add(writer, done)
        assert contents(path) == grown
        assert writer.frames == frames_in(path) == 45
        assert writer.finish(CHAPTERS) is None
    assert contents(path) == finished


@pytest.mark.parametrize("name", FILES)
def test_a_film_without_a_whole_chunk_cannot_go_on(tmp_path, whole, name):
    path = tmp_path / name
    path.write_bytes(whole[name][0][:2000])
    with pytest.raises(OutputError, match=r"no whole chunk|damaged or no film"):
        frames_in(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("done", range(CHUNKS + 1))
def test_a_finished_film_goes_on(tmp_path, whole, name, done):
    path = tmp_path / name
    grown, finished = whole[name]
    path.write_bytes(finished)
    assert frames_in(path) == 45
    with open_film(path, past=Past(path, STARTS[done])) as writer:
        assert contents(path) == finished
        add(writer, done)
        if done < CHUNKS:
            assert contents(path) == grown
        assert writer.finish(CHAPTERS) is None
    assert contents(path) == finished


@pytest.mark.parametrize("name", FILES)
def test_a_growing_film_is_cut_in_place(tmp_path, whole, name):
    path = tmp_path / name
    path.write_bytes(whole[name][0])
    before = path.stat().st_ino
    with open_film(path, past=Past(path, STARTS[1])) as writer:
        add(writer, 1, 2)
        assert frames_in(path) == STARTS[2]
        add(writer, 2)
    assert contents(path) == whole[name][0]
    assert path.stat().st_ino == before


@pytest.mark.parametrize(("source", "name"), [(1, 0), (0, 3), (3, 1)])
@pytest.mark.parametrize("finish", [False, True])
def test_a_branch_begins_with_the_same_bytes(tmp_path, whole, source, name, finish):
    old = tmp_path / f"old-{FILES[source]}"
    old.write_bytes(whole[FILES[source]][finish])
    path = tmp_path / FILES[name]
    assert made(path, 2, past=Past(old, STARTS[2])) == whole[FILES[name]][0]
    assert contents(old) == whole[FILES[source]][finish]


def test_pictures_go_on(tmp_path, whole):
    path = tmp_path / "film"
    for done in range(CHUNKS + 1):
        made(path, 0, max(done, 1), overwrite=True)
        # One picture is torn, and one was about to be renamed.
        torn = path / f"frame_{STARTS[max(done, 1)]:06d}.png"
        torn.write_bytes((path / "frame_000000.png").read_bytes()[:-1])
        (path / f".{torn.name}.partial").write_bytes(b"half")
        (path / "notes.png").write_bytes(b"mine")
        assert frames_in(path) == STARTS[max(done, 1)]
        assert made(path, done, finish=True, past=Past(path, STARTS[done])) == whole["film"][0] | {
            "notes.png": b"mine"
        } | ({f".{torn.name}.partial": b"half"} if done == CHUNKS else {})
        (path / f".{torn.name}.partial").unlink(missing_ok=True)


def test_pictures_are_copied_into_a_branch(tmp_path, whole):
    made(tmp_path / "old")
    assert made(tmp_path / "film", 2, past=Past(tmp_path / "old", 21)) == whole["film"][0]
    first = tmp_path / "film" / "frame_000000.png"
    assert first.stat().st_nlink == 1


def test_chunks_depend_on_nothing_before_them(tmp_path):
    packets = []
    for first in (0, 1):
        path = tmp_path / f"{first}.mp4"
        made(path, first, 2)
        with av.open(str(path)) as container:
            packets.append([bytes(packet) for packet in container.demux(video=0) if packet.size])
    assert packets[0][9:] == packets[1]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"past": 10}, "cannot be cut at frame 10, inside a chunk; the nearest cuts are 9 and 21"),
        ({"past": 46}, "holds 45 frames, not 46"),
        ({"past": -1}, "holds 45 frames, not -1"),
        ({"scale": 4}, "has scale 2, and 4 is asked for"),
        ({"size": (32, 24)}, "has size 64x48, and 32x24 is asked for"),
        ({"fps": 24}, "has fps 16, and 24 is asked for"),
        ({"crf": 20}, "has crf 18, and 20 is asked for"),
    ],
)
@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film"])
def test_a_past_that_does_not_fit_is_refused(tmp_path, name, given, sentence):
    if name == "film" and ("crf" in given or given.get("past") == 10):
        pytest.skip("pictures have no crf and no chunks")
    path = tmp_path / name
    before = made(path)
    frames = given.get("past", 21)
    with pytest.raises(OutputError, match=sentence):
        open_film(path, **given | {"past": Past(path, frames)})
    assert contents(path) == before


@pytest.mark.parametrize("name", ["film.webm", "film.gif"])
def test_kinds_that_cannot_go_on_say_which_can(tmp_path, name):
    path = tmp_path / name
    before = made(path)
    with pytest.raises(OutputError, match=r"cannot go on from another film; \.mp4, \.mov"):
        open_film(path, past=Past(path, 9))
    assert contents(path) == before


def test_what_afstream_did_not_write_is_not_gone_on_with(tmp_path):
    made(tmp_path / "film.mp4", tags={})
    foreign = tmp_path / "foreign.mp4"
    with (
        av.open(str(tmp_path / "film.mp4")) as source,
        av.open(str(foreign), "w") as muxer,
    ):
        stream = muxer.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                muxer.mux_one(packet)
    assert read_tags(foreign) == {}
    with pytest.raises(OutputError, match="was not written by afstream"):
        open_film(foreign, past=Past(foreign, 9))


@pytest.mark.parametrize("name", ["film.mp4", "film.mov", "film.mkv"])
def test_a_finished_film_is_ordinary(tmp_path, whole, name):
    grown, finished = tmp_path / f"grown-{name}", tmp_path / name
    grown.write_bytes(whole[{"film.mkv": "film.MKV"}.get(name, name)][0])
    finished.write_bytes(whole[{"film.mkv": "film.MKV"}.get(name, name)][1])
    for one, other in zip(read(grown), read(finished), strict=True):
        assert np.array_equal(one, other)
    assert read_tags(finished) == read_tags(grown)
    assert read_tags(finished) | TAGS == read_tags(finished)
    assert read_tags(finished)["encoder"] == "afstream"
    with av.open(str(finished)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.profile == "High"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert container.metadata["title"] == "A red star"
        chapters = container.chapters()
        assert [chapter["metadata"]["title"] for chapter in chapters] == [
            "a red star",
            "ein grüner Ball springt",
        ]
        starts = [float(chapter["start"] * chapter["time_base"]) for chapter in chapters]
        assert starts == pytest.approx([0, 9 / 16], abs=1e-3)
        times = [packet.pts * packet.time_base for packet in container.demux(stream) if packet.size]
        assert [round(float(time) * 16, 1) for time in times] == pytest.approx(range(45), abs=0.1)
    data = finished.read_bytes()
    if name.endswith("mkv"):
        # The index, then the first cluster.
        assert data.index(b"\x1c\x53\xbb\x6b") < data.index(b"\x1f\x43\xb6\x75")
    else:
        assert stream.frames == 45
        assert data.index(b"moov") < data.index(b"mdat")


def test_more_chapters_than_a_byte_counts(tmp_path):
    path = tmp_path / "film.mp4"
    prompts = [Chapter(index / 16, f"{index} " + "ä" * 200) for index in range(300)]
    with open_film(path) as writer:
        for index in range(25):
            writer.write(chunk_of(index))
        assert writer.finish([*prompts, Chapter(99, "beyond the end")]) is None
    with av.open(str(path)) as container:
        titles = [chapter["metadata"]["title"] for chapter in container.chapters()]
    assert titles[0].startswith("0 ä")
    assert titles[254].startswith("254 ä")
    assert "beyond" not in titles[-1]
    assert len(read(path)) == 300


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_a_process_that_ends_within_finish_leaves_a_whole_film(tmp_path, whole, name):
    path = tmp_path / name
    grown, finished = whole[{"film.mkv": "film.MKV"}.get(name, name)]

    def finish():
        open_film(path, past=Past(path, 45)).finish(CHAPTERS)

    seen = set()
    for _ in crash_points(finish, before=lambda: path.write_bytes(grown)):
        assert contents(path) in (grown, finished)
        seen.add(contents(path))
    assert seen == {grown, finished}


@pytest.mark.parametrize(("name", "done"), [("film.mp4", CHUNKS), ("film.MKV", 1)])
def test_a_process_that_ends_while_a_finished_film_is_reopened(tmp_path, whole, name, done):
    path = tmp_path / name
    grown, finished = whole[name]

    def reopen():
        with open_film(path, past=Past(path, STARTS[done])) as writer:
            writer.write(chunk_of(1)[:12])

    for _ in crash_points(reopen, before=lambda: path.write_bytes(finished)):
        assert frames_in(path) >= STARTS[done]
        assert contents(path) == finished or contents(path)[:500] == grown[:500]


def test_a_film_without_room_for_its_end_stays_as_it_grew(tmp_path, whole, monkeypatch):
    path = tmp_path / "film.mp4"

    class Full(io.BytesIO):
        def write(self, data, /):
            raise OSError(28, "No space left on device")

    with open_film(path) as writer:
        add(writer, 0)

        @contextmanager
        def full(path):
            with replace_file(path):
                yield Full()

        monkeypatch.setattr("afstream.video.growing.replace_file", full)
        assert "no space left" in (writer.finish(CHAPTERS) or "").lower()
    assert contents(path) == whole["film.mp4"][0]
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


def test_a_film_can_be_finished_without_another_frame(tmp_path, whole):
    path = tmp_path / "film.mov"
    path.write_bytes(whole["film.mov"][0])
    assert open_film(path, past=Past(path, 45)).finish(CHAPTERS) is None
    assert contents(path) == whole["film.mov"][1]
    with open_film(tmp_path / "none.mp4") as writer:
        assert writer.finish() is None
    assert not (tmp_path / "none.mp4").exists()


def test_other_tags_take_the_place_of_the_old_ones(tmp_path):
    path: Path = tmp_path / "film.mp4"
    made(path, 0, 2)
    shutil.copy(path, tmp_path / "copy.mp4")
    made(path, 2, past=Past(path, 21), tags={"run": "other"})
    assert read_tags(path)["run"] == "other"
    assert frames_in(path) == 45


@pytest.mark.parametrize("name", FILES)
def test_an_empty_film_holds_no_frames(tmp_path, name):
    (tmp_path / name).touch()
    assert frames_in(tmp_path / name) == 0


@pytest.mark.parametrize(
    ("source", "name", "sentence"),
    [
        ("film.mp4", "branch", r"folder of PNGs cannot go on from .*film\.mp4, which is none"),
        ("film.mp4", "branch.gif", "a gif cannot go on from another film"),
        ("film", "branch.mp4", "a video cannot go on from .*film, a folder of PNGs"),
    ],
)
def test_a_past_of_another_kind_is_refused(tmp_path, source, name, sentence):
    made(tmp_path / source)
    given = {} if source == "film" else {"crf": 18}
    with pytest.raises(OutputError, match=sentence):
        open_film(tmp_path / name, past=Past(tmp_path / source, 21), **given)
