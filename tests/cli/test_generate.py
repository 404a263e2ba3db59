"""`afstream generate` with a toy stream: files, reports, refusals."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from afstream.video.growing import GrowingFile
from afstream.video.picture import Captions, Frames

Run = Callable[..., Any]
# 4 s asked for, in whole chunks: 9 + 4 * 12 frames before the cut, 9 after it.
FRAMES = 66


def num_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_video_record_and_sheet(afstream: Run, timeline: str, tmp_path: Path):
    done = afstream("generate", "--prompts", timeline, "--sheet", "sheet.png")
    assert done.code == 0
    assert not done.out
    assert num_frames(tmp_path / "out.mp4") == FRAMES
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"timeline.txt", "out.mp4", "out.json", "out.state", "sheet.png"}
    assert "a blue [ball] drifts left" in done.err
    assert "4.12 s of video (66 frames) in out.mp4" in done.err
    assert "sheet.png" in done.err


def test_the_record_says_what_was_made(afstream: Run, timeline: str, tmp_path: Path):
    afstream("generate", "-p", timeline, "--memory", "anchor", "--junction", "gap")
    record = load(tmp_path / "out.json")
    assert record["state"] == "finished"
    assert record["error"] is None
    assert record["seed"] == 3
    assert record["model"] == {"name": "fake", "sha256": "0"}
    assert record["memory"]["name"] == "anchor"
    assert record["memory"]["junction"] == "gap"
    assert record["device"] == "cpu"
    assert record["dtype"] == "float32"
    assert set(record["versions"]) == {"afstream", "torch", "python", "platform"}
    assert record["output"] == {
        "path": "out.mp4",
        "frames": FRAMES,
        "seconds": FRAMES / 16,
        "chunks": 6,
        "fps": 16,
        "width_px": 384,
        "height_px": 288,
        "scale": 6,
        "crf": 18,
        "exact_frames": None,
        "sheet": None,
        "subtitles": None,
        "states": True,
    }
    assert [cue["chunk"] for cue in record["cues"]] == [0, 2, 3, 5]
    assert [cue["requested_s"] for cue in record["cues"]] == [0, 1, 2, 3]
    assert [cue["effective_s"] for cue in record["cues"]] == [0, 1.3125, 2.0625, 3.5625]
    assert record["cues"][2]["note"] == "Dusk"
    assert record["cues"][3]["transition"] == "cut"
    timings = record["timings"]
    assert timings["first_frame_ms"] > 0
    assert timings["switch_ms"]["count"] == 3
    assert timings["chunk"]["denoise_ms"]["p50"] == 20.0
    assert timings["chunk"]["total_ms"]["count"] == 6


def test_json_is_one_line_per_chunk(afstream: Run, timeline: str):
    done = afstream("generate", "-p", timeline, "--json")
    assert not done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["chunk"] for line in lines] == list(range(6))
    assert [line["segment"] for line in lines] == [0, 0, 1, 2, 2, 3]
    assert lines[-1]["total_frames"] == FRAMES
    assert lines[2]["receipts"][0]["switch_ms"] == 31.0
    assert set(lines[0]) == {
        "chunk",
        "segment",
        "prompt",
        "start_s",
        "frames",
        "total_frames",
        "receipts",
        "timing",
    }


def test_quiet_says_nothing(afstream: Run, timeline: str):
    assert afstream("generate", "-p", timeline, "--quiet") == (0, "", "")


def test_same_seed_same_video(afstream: Run, timeline: str, tmp_path: Path):
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        afstream("generate", "-p", timeline, "-q", "--seed", seed, "-o", f"{name}.mp4")
    a, b, c = ((tmp_path / f"{name}.mp4").read_bytes() for name in "abc")
    assert a == b != c
    assert load(tmp_path / "c.json")["seed"] == 6


def test_options_win_over_the_timeline(afstream: Run, timeline: str, tmp_path: Path):
    afstream("generate", "-p", timeline, "-q", "--duration", "80f", "--scale", "1", "-o", "x.gif")
    record = load(tmp_path / "x.json")
    assert record["output"]["frames"] == 90
    assert (record["output"]["width_px"], record["output"]["scale"]) == (64, 1)


def test_a_folder_of_pictures(afstream: Run, timeline: str, tmp_path: Path):
    afstream("generate", "-p", timeline, "-q", "-o", "frames/", "--record", "deep/run.json")
    assert len(list((tmp_path / "frames").iterdir())) == FRAMES
    assert load(tmp_path / "deep" / "run.json")["output"]["frames"] == FRAMES


def test_prompt_files_of_other_projects(afstream: Run, tmp_path: Path):
    lines = [{"prompts": ["a ball", "a star"]}, {"prompts": ["a wedge", "a box", "a disc"]}]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "p.jsonl").write_text(text)
    arguments = ("--switch-frames", "6, 12", "--line", "2", "--dry-run", "--json")
    plan = json.loads(afstream("generate", "-p", "p.jsonl", *arguments).out)
    assert [cue["prompt"] for cue in plan["cues"]] == ["a wedge", "a box", "a disc"]
    assert [cue["chunk"] for cue in plan["cues"]] == [0, 2, 4]


def test_dry_run_shows_the_plan_and_makes_nothing(afstream: Run, timeline: str, tmp_path: Path):
    done = afstream("generate", "-p", timeline, "--dry-run")
    assert done.code == 0
    assert not done.err
    rows = done.out.splitlines()
    assert rows[0].split() == ["asked", "effective", "slip", "chunk", "how", "prompt"]
    assert rows[2].split()[:5] == ["0:01", "0:01.3125", "0.31", "s", "2"]
    assert "a blue [ball] drifts left" in rows[2]
    assert rows[-1] == "4.12 s: 6 chunks, 66 frames"
    assert {path.name for path in tmp_path.iterdir()} == {"timeline.txt"}


def test_dry_run_as_data(afstream: Run, timeline: str):
    plan = json.loads(afstream("generate", "-p", timeline, "--dry-run", "--json").out)
    assert plan["num_video_frames"] == FRAMES
    assert [cue["slip_s"] for cue in plan["cues"]] == [0, 0.3125, 0.0625, 0.5625]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nope"], "there is no model 'nope'"),
        (["--memory", "elephant"], "memory is 'elephant'; choose one of anchor"),
        (["--junction", "knot"], "junction hand-over is 'knot'"),
        (["--size", "64"], "--size is '64'; write width x height"),
        (["--duration", "soon"], "--duration: duration is 'soon'"),
        (["--scale", "0"], "scale is 0"),
        (["--out", "x.avi"], "x.avi ends in '.avi'; use .mp4"),
        (["--out", "timeline.txt/x.mp4"], "cannot write timeline.txt/x.mp4"),
        (["--sheet", "timeline.txt/x.png"], "cannot write timeline.txt/x.png"),
        (["--sheet", "x.jpg"], "must end in .png"),
        (["--record", "timeline.txt"], "timeline.txt is both the prompts and the run record"),
        (["--record", "out.mp4"], "out.mp4 is both the video and the run record"),
        (["--line", "2"], "--line are for .jsonl files"),
        (["--quiet", "--json"], "choose one of them"),
    ],
)
def test_refusals(
    afstream: Run, timeline: str, tmp_path: Path, arguments: list[str], sentence: str
):
    done = afstream("generate", "--prompts", timeline, *arguments)
    assert done.code == 2
    assert not done.out
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"timeline.txt"}


def test_a_prompt_not_understood_is_found_before_the_first_frame(afstream: Run, tmp_path: Path):
    (tmp_path / "t.txt").write_text("0:00 a ball\n0:05 a wug\n")
    (tmp_path / "out.mp4").write_bytes(b"older")
    done = afstream("generate", "-p", "t.txt")
    assert done.code == 2
    assert "the model does not know 'wug'" in done.err
    assert (tmp_path / "out.mp4").read_bytes() == b"older"
    assert not (tmp_path / "out.json").exists()


def test_a_full_disk_keeps_what_was_made(
    afstream: Run, timeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = GrowingFile.write
    room = iter(range(3))

    def write_until_full(encoder: GrowingFile, frames: Frames, captions: Captions | None) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(encoder, frames, captions)

    monkeypatch.setattr(GrowingFile, "write", write_until_full)
    done = afstream("generate", "-p", timeline)
    assert done.code == 2
    assert "the disk of out.mp4 is full: the 2.06 s before that are kept" in done.err
    assert num_frames(tmp_path / "out.mp4") == 33
    record = load(tmp_path / "out.json")
    assert record["state"] == "failed"
    assert "disk" in record["error"]
    assert record["output"]["frames"] == 33


@pytest.mark.parametrize("happens", ["no room", "removed"])
def test_a_film_of_which_nothing_is_left_has_failed(
    afstream: Run,
    timeline: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    happens: str,
):
    write = GrowingFile.write

    def then(encoder: GrowingFile, frames: Frames, captions: Captions | None) -> None:
        if happens == "no room":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(encoder, frames, captions)
        (tmp_path / "out.mp4").unlink(missing_ok=True)

    monkeypatch.setattr(GrowingFile, "write", then)
    done = afstream("generate", "-p", timeline)
    assert done.code == 2
    assert "nothing is kept" in done.err
    record = load(tmp_path / "out.json")
    assert (record["state"], record["output"]["frames"]) == ("failed", 0)
    assert "nothing is kept" in record["error"]


def test_a_dry_run_names_words_that_the_model_does_not_know(command: Run, tmp_path: Path):
    (tmp_path / "t.txt").write_text("0:00 a red ball\n0:05 a wombat\n")
    done = command("generate", "-p", "t.txt", "--dry-run")
    assert done.code == 2
    assert "t.txt:2:1: the pocket model does not know 'wombat'" in done.err
