"""`afstream resume`, `extend` and `branch`, and `generate` on a record, with a toy stream."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from afstream.film.film import Film
from afstream.film.record import read_record
from afstream.film.states import StateStore
from afstream.video import frames_in
from afstream_cli.app import main

Run = Callable[..., Any]
CHUNKS = 6


def pictures(video: Path) -> list[bytes]:
    if video.is_dir():
        return [path.read_bytes() for path in sorted(video.iterdir())]
    with av.open(str(video)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


def content(video: Path) -> list[bytes]:
    """All bytes of a video."""
    return pictures(video) if video.is_dir() else [video.read_bytes()]


def packets(video: Path) -> list[bytes]:
    with av.open(str(video)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


class Killed(BaseException):
    """Nothing is told of it, and nothing is closed: all that stays is what is in the files."""


@pytest.fixture
def kill(afstream: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a command, and end it when so many chunks are in the file.

    `benchmarks/kill_runs` kills processes; here the moment is chosen.
    """
    add, cut = Film.add, Film._cut

    def run(chunks: int, *arguments: str, in_write: bool = False) -> None:
        def end(film: Film, chunk: Any) -> Any:
            if film.chunks == chunks:
                # lets go of the file as it is
                film.writer.close()
                raise Killed
            return (cut if in_write else add)(film, chunk)

        with monkeypatch.context() as patch:
            patch.setattr(Film, "_cut" if in_write else "add", end)
            patch.setattr(Film, "__exit__", lambda *_: None)
            patch.setattr("afstream.film.states.EVERY_S", 0.0)
            patch.setattr("afstream.film.states.SHARE", 1e9)
            with pytest.raises(Killed):
                main(arguments)

    return run


@pytest.mark.parametrize(
    ("out", "states"),
    [
        ("v.mp4", True),
        ("v.mov", True),
        ("v.mkv", True),
        ("v", True),
        ("v.mp4", False),
        ("v", False),
    ],
)
def test_a_killed_film_is_resumed_to_the_same_bytes(
    afstream: Run, kill: Callable[..., None], timeline: str, tmp_path: Path, out: str, states: bool
):
    more = [] if states else ["--no-state"]
    assert afstream("generate", "-p", timeline, "-q", "-o", f"whole/{out}").code == 0
    for chunks in range(1, CHUNKS):
        folder = tmp_path / str(chunks)
        kill(chunks, "generate", "-p", timeline, "-q", "-o", f"{chunks}/{out}", *more)
        record = read_record(folder / "v.json")
        assert record.state == "running"
        assert record.output.frames <= frames_in(folder / out)
        done = afstream("resume", f"{chunks}/{out}")
        assert done.code == 0
        assert ("again" in done.err) is not states
        assert (folder / "v.state").exists() is states
        assert content(folder / out) == content(tmp_path / "whole" / out)
        record = read_record(folder / "v.json")
        assert (record.state, record.output.chunks) == ("finished", CHUNKS)
        assert [cue.chunk for cue in record.cues] == [0, 2, 3, 5]


def test_a_film_is_killed_again_while_it_is_resumed(
    afstream: Run, kill: Callable[..., None], timeline: str, tmp_path: Path
):
    afstream("generate", "-p", timeline, "-q", "-o", "whole.mp4")
    kill(1, "generate", "-p", timeline, "-q", "-o", "v.mp4")
    for chunks in range(2, CHUNKS):
        kill(chunks, "resume", "v.mp4", "-q")
    assert afstream("resume", "v.mp4", "-q").code == 0
    assert content(tmp_path / "v.mp4") == content(tmp_path / "whole.mp4")


def test_a_torn_tail_and_a_damaged_state_cost_nothing(
    afstream: Run, kill: Callable[..., None], timeline: str, tmp_path: Path
):
    afstream("generate", "-p", timeline, "-q", "-o", "whole.mp4")
    kill(4, "generate", "-p", timeline, "-q", "-o", "v.mp4")
    video, states = tmp_path / "v.mp4", StateStore(tmp_path / "v.state").found
    video.write_bytes(video.read_bytes()[:-7])
    assert [chunk for chunk, _ in states] == [4, 3]
    states[1][1].write_bytes(b"damaged")
    done = afstream("resume", "v.mp4")
    assert "damaged" in done.err
    assert "again" in done.err
    assert content(video) == content(tmp_path / "whole.mp4")


def test_a_film_killed_before_its_first_frame_begins_anew(
    afstream: Run, kill: Callable[..., None], timeline: str, tmp_path: Path
):
    afstream("generate", "-p", timeline, "-q", "-o", "whole.mp4")
    kill(0, "generate", "-p", timeline, "-q", "-o", "v.mp4")
    assert not (tmp_path / "v.mp4").exists()
    done = afstream("resume", "v.mp4")
    assert "there is no run record v.json" in done.err
    assert afstream("generate", "-p", timeline, "-q", "-o", "v.mp4").code == 0
    assert content(tmp_path / "v.mp4") == content(tmp_path / "whole.mp4")


@pytest.mark.parametrize("out", ["v.mp4", "v.mkv"])
@pytest.mark.parametrize("left", [0, 10, 500, 2500])
def test_a_film_killed_within_its_first_chunk_begins_anew(
    afstream: Run, kill: Callable[..., None], timeline: str, tmp_path: Path, out: str, left: int
):
    afstream("generate", "-p", timeline, "-q", "-o", f"whole/{out}")
    kill(1, "generate", "-p", timeline, "-q", "-o", out, "--no-state")
    with (tmp_path / out).open("r+b") as file:
        file.truncate(left)
    assert afstream("resume", out, "-q") == (0, "", "")
    assert content(tmp_path / out) == content(tmp_path / "whole" / out)


def test_generate_resumes_what_it_has_begun_and_begins_what_is_not_there(
    afstream: Run, kill: Callable[..., None], timeline: str, tmp_path: Path
):
    made = ("generate", "-p", timeline, "-q")
    afstream(*made, "-o", "whole.mp4")
    assert "needs --out" in afstream(*made, "--resume").err
    kill(3, *made, "-o", "v.mp4", "--resume")
    other = afstream(*made, "-o", "v.mp4", "--resume", "--seed", "9")
    assert "from another timeline, seed or duration" in other.err
    for _ in range(2):
        assert afstream(*made, "-o", "v.mp4", "--resume") == (0, "", "")
        assert content(tmp_path / "v.mp4") == content(tmp_path / "whole.mp4")


def test_extending_is_what_one_run_would_have_made(afstream: Run, timeline: str, tmp_path: Path):
    (tmp_path / "more.txt").write_text("@duration 30f\n0:00 a cone\n[1c] cut seed=9 a ring\n")
    afstream("generate", "-p", timeline, "-q", "-o", "v.mp4")
    before = packets(tmp_path / "v.mp4")
    assert afstream("extend", "v.mp4", "-p", "more.txt", "-q").code == 0
    assert packets(tmp_path / "v.mp4")[: len(before)] == before
    record = read_record(tmp_path / "v.json")
    assert [cue.prompt for cue in record.cues][-2:] == ["a cone", "a ring"]
    assert [cue.chunk for cue in record.cues][-2:] == [6, 7]
    assert record.output.frames == len(before) + 12 + 9 + 12
    assert afstream("generate", "-p", "v.json", "-q", "-o", "again.mp4").code == 0
    assert pictures(tmp_path / "again.mp4") == pictures(tmp_path / "v.mp4")


def test_a_branch_shares_the_past_bit_for_bit(afstream: Run, timeline: str, tmp_path: Path):
    (tmp_path / "other.txt").write_text("@duration 0:02\n0:00 a cone\n")
    afstream("generate", "-p", timeline, "-q", "-o", "v.mp4")
    before = content(tmp_path / "v.mp4")
    assert afstream("branch", "v.mp4", "--at", "0:02", "-p", "other.txt", "-q").code == 0
    assert content(tmp_path / "v.mp4") == before
    # the third chunk ends at 33 of 16 frames a second
    shared = 33
    assert packets(tmp_path / "v-2.mp4")[:shared] == packets(tmp_path / "v.mp4")[:shared]
    assert len(pictures(tmp_path / "v-2.mp4")) == shared + 36
    record = read_record(tmp_path / "v-2.json")
    assert record.origin
    assert (record.origin.film, record.origin.chunks) == ("v.mp4", 3)
    assert [cue.prompt for cue in record.cues] == [
        "a red ball bounces",
        "a blue [ball] drifts left",
        "a cone",
    ]
    assert afstream("generate", "-p", "v-2.json", "-q", "-o", "again.mp4").code == 0
    assert pictures(tmp_path / "again.mp4") == pictures(tmp_path / "v-2.mp4")


@pytest.mark.parametrize("verb", ["resume", "extend"])
def test_a_live_film_goes_on_live(
    afstream: Run,
    kill: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
):
    monkeypatch.setattr("sys.stdin", io.StringIO("@seed 8\na red ball\n[2c] a star\n[4c] a cone\n"))
    kill(5, "generate", "-p", "-", "-q", "-o", "v.mp4")
    replay = (tmp_path / "v.timeline.txt").read_text()
    assert "[4c]" in replay
    monkeypatch.setattr("sys.stdin", io.StringIO("a ring\n"))
    more = ["-p", "-"] if verb == "extend" else []
    assert afstream(verb, "v.mp4", "-q", *more).code == 0
    record = read_record(tmp_path / "v.json")
    assert [cue.prompt for cue in record.cues] == ["a red ball", "a star", "a cone", "a ring"]
    assert [cue.chunk for cue in record.cues] == [0, 2, 4, 5]
    assert afstream("generate", "-p", "v.timeline.txt", "-q", "-o", "again.mp4").code == 0
    assert pictures(tmp_path / "again.mp4") == pictures(tmp_path / "v.mp4")


def test_a_cue_whose_frames_were_lost_is_kept(
    afstream: Run, kill: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO("a red ball\n[4c] a cone\n"))
    kill(4, "generate", "-p", "-", "-q", "-o", "v.mp4", in_write=True)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert afstream("resume", "v.mp4", "-q").code == 0
    assert [cue.prompt for cue in read_record(tmp_path / "v.json").cues] == ["a red ball", "a cone"]


REFUSALS: list[tuple[list[str], str]] = [
    (["resume", "v.mp4"], "v.mp4 is finished; afstream extend"),
    (["resume", "none.mp4"], "there is no run record none.json"),
    (["resume", "other.json"], "other.json is no run record"),
    (["resume", ""], "names no file"),
    (["resume", "v.mp4", "--record", "w.json"], "are of two runs"),
    (["extend", "v.webm", "-p", "t2.txt", "--record", "v2.json"], "webm"),
    (["extend", "v.mp4", "-p", "none.txt"], "none.txt"),
    (["branch", "v.mp4", "--at", "0:09", "-p", "t2.txt"], "to 4.125 s"),
    (["branch", "v.mp4", "--at", "0:00", "-p", "t2.txt"], "from 0.5625 s on"),
    (["branch", "v.mp4", "--at", "9" * 5000, "-p", "t2.txt"], "99...'; write a time such as"),
    (["branch", "v.mp4", "--at", "soon", "-p", "t2.txt"], "--at is 'soon'"),
    (["branch", "v.mp4", "--at", "0:02", "-p", "t2.txt", "-o", "w.mp4"], "w.mp4 exists"),
    (
        ["branch", "v.mp4", "--at", "2s", "-p", "t2.txt", "-o", "v.mp4", "--overwrite"],
        "both the film and the video",
    ),
    (["branch", "v.mp4", "--at", "0:02", "-p", "t2.txt", "-o", "x.gif"], "gif"),
]  # fmt: skip


def test_refusals(afstream: Run, timeline: str, tmp_path: Path):
    (tmp_path / "t2.txt").write_text("@duration 0:01\na cone\n")
    (tmp_path / "other.json").write_text("{}")
    afstream("generate", "-p", timeline, "-q", "-o", "v.mp4")
    afstream("generate", "-p", timeline, "-q", "-o", "w.mp4", "--seed", "9")
    afstream("generate", "-p", timeline, "-q", "-o", "v.webm", "--record", "v2.json", "--no-state")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for arguments, sentence in REFUSALS:
        done = afstream(*arguments)
        assert done.code == 2, arguments
        assert sentence in done.err, arguments
        assert len(done.err.splitlines()) == 1, arguments
        after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        assert after == before, arguments


def test_an_exact_length_is_kept_and_extended_from_the_last_whole_chunk(
    afstream: Run, timeline: str, tmp_path: Path
):
    afstream("generate", "-p", timeline, "-q", "--duration", "0:03.8", "--exact", "-o", "v.mp4")
    assert frames_in(tmp_path / "v.mp4") == round(3.8 * 16)
    (tmp_path / "more.txt").write_text("@duration 0:01\na cone\n")
    assert afstream("extend", "v.mp4", "-p", "more.txt", "-q").code == 0
    # five whole chunks of the old film, and two of the new part
    assert frames_in(tmp_path / "v.mp4") == 57 + 12 + 12


def test_the_sheet_shows_what_was_kept(
    afstream: Run, kill: Callable[..., None], timeline: str, tmp_path: Path
):
    afstream("generate", "-p", timeline, "-q", "-o", "whole", "--sheet", "whole.png")
    kill(4, "generate", "-p", timeline, "-q", "-o", "v", "--sheet", "v.png")
    assert not (tmp_path / "v.png").exists()
    assert afstream("resume", "v", "-q").code == 0
    assert (tmp_path / "v.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_a_record_that_says_too_much_is_refused(afstream: Run, timeline: str, tmp_path: Path):
    afstream("generate", "-p", timeline, "-q", "-o", "v.mp4")
    record = json.loads((tmp_path / "v.json").read_text())
    for path, value in (
        (("stream", "threads"), 10**9),
        (("stream", "threads"), "many"),
        (("output", "scale"), 0),
        (("timeline",), "0:00 a\n0:00 b"),
        (("state",), "happy"),
        (("afstream_record",), 99),
    ):
        changed = json.loads(json.dumps(record))
        inner = changed
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        (tmp_path / "v.json").write_text(json.dumps(changed))
        done = afstream("resume", "v.mp4")
        assert done.code == 2
        assert len(done.err.splitlines()) == 1
        assert "v.json" in done.err


def test_a_foreign_picture_costs_a_film_neither_record_nor_states(
    afstream: Run, kill: Callable[..., None], timeline: str, tmp_path: Path
):
    kill(4, "generate", "-p", timeline, "-q", "-o", "v")
    (tmp_path / "v" / "frame_000030.png").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = afstream("resume", "v")
    assert done.code == 2
    assert "was not written by afstream" in done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_film_goes_on_with_as_many_threads_as_it_was_begun_with(
    afstream: Run,
    kill: Callable[..., None],
    timeline: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    kill(2, "generate", "-p", timeline, "-q", "-o", "v.mp4")
    record = json.loads((tmp_path / "v.json").read_text())
    record["stream"]["threads"] = 3
    (tmp_path / "v.json").write_text(json.dumps(record))
    asked: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    assert afstream("resume", "v.mp4", "-q").code == 0
    assert asked == [3]


def test_a_state_of_another_film_is_not_gone_on_from(afstream: Run, tmp_path: Path):
    texts = {
        "v": "@duration 0:03\n0:00 a red ball\n0:02 cut seed=4 a star\n",
        "other prompt": "@duration 0:03\n0:00 a blue ball\n0:02 cut seed=4 a star\n",
        "other seed": "@seed 3\n@duration 0:03\n0:00 a red ball\n0:02 cut seed=4 a star\n",
        "no cut": "@duration 0:03\n0:00 a red ball\n0:02 seed=4 a star\n",
        "one cue more": "@duration 0:03\n0:00 a red ball\n0:01 a box\n0:02 cut seed=4 a star\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
        assert afstream("generate", "-p", f"{name}.txt", "-q", "-o", f"{name}.mp4").code == 0
    (tmp_path / "more.txt").write_text("@duration 0:01\na disc\n")
    branch = ("branch", "v.mp4", "--at", "0:03", "-p", "more.txt")
    assert "again" not in afstream(*branch, "-o", "own.mp4").err
    for name in list(texts)[1:]:
        ((_, state),) = StateStore(tmp_path / f"{name}.state").found
        (tmp_path / "v.state" / state.name).write_bytes(state.read_bytes())
        done = afstream(*branch, "-o", f"branch of {name}.mp4")
        assert done.code == 0
        assert f"{state.name} was saved on another way; the state before it is used" in done.err
        assert content(tmp_path / f"branch of {name}.mp4") == content(tmp_path / "own.mp4")
