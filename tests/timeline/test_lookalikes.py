# ruff: noqa: RUF001 - marks and digits of other scripts are what is tested
"""What looks like a time or another tool's file is refused; ordinary prompts are not."""

from pathlib import Path

import pytest
from tests.timeline.clocks import CLOCK

from afstream.errors import TimelineError
from afstream.timeline import Cue, Moment, Timeline
from afstream.timeline.imports import ImportOptions, PromptFile, find_import

# a line, and how it should be written
MEANT = {
    "96: A red star": "'1:36 A red star' for seconds or '[96f] A red star' for frames",
    "frame 96: A red star": "'[96f] A red star'",
    "5 - A red star": "'0:05 A red star'",
    "5\tA red star": "'0:05 A red star'",
    "5s A red star": "'0:05 A red star'",
    "10s A red star": "'0:10 A red star'",
    "0.5s A red star": "'0:00.5 A red star'",
    "5s: A red star": "'0:05 A red star'",
    "80s: A red star": "'1:20 A red star'",
    "5 s A red star": "'0:05 A red star'",
    "5 seconds: a red star": "'0:05 a red star'",
    "1m30s A red star": "'1:30 A red star'",
    "96f A red star": "'[96f] A red star'",
    "(0:05) A red star": "'0:05 A red star'",
    "[0:05] A red star": "'0:05 A red star'",
    "【0:05】A red star": "'0:05 A red star'",
    "- 0:05 A red star": "'0:05 A red star'",
    "1. 0:05 - A red star": "'0:05 A red star'",
    "0:05: A red star": "'0:05 A red star'",
    "00:01:05,500 A red star": "'1:05.5 A red star'",
    "0：05 A red star": "'0:05 A red star'",
    "٥s A red star": "'0:05 A red star'",
    "1. A red star": "'A red star'",
    "- A red star": "'A red star'",
    "• A red star": "'A red star'",
    "prompt: A red star": "'A red star'",
    'prompt: "A red star"': "'A red star'",
    '1,0,"A red star"': "'A red star'",
    "5,A red star": "'A red star'",
    "blend=1s A red star": "'0:05 blend=1s A red star'",
    "time: 5": "'0:05 A red star'",
    "- time: 5": "'0:05 A red star'",
    "seed = 3": "'0:05 A red star'",
    "id,prompt_index,prompt": "'0:05 A red star' for each row",
    "{": "'0:05 A red star'",
    '["A red star",': "'0:05 A red star'",
    "WEBVTT": "'0:05 A red star'",
    "00:00:00,000 --> 00:00:05,000": "'0:05 A red star'",
    "---": "'0:05 A red star'",
    "A red star --neg blurry --seed 42": "remove it",
    "A red star [5s] | A blue ball [5s#]; drift": "remove it",
}
ORDINARY = [
    "5 stars drift",
    "A: a fox",
    "1950s car",
    "80s neon street at night",
    "3 dogs run",
    "1,000 balloons rise",
    "1,000,000 balloons",
    "A red star - slowly",
    "2001 was a year",
    "Time: night, a city",
    "a star, a ball",
    "3 seconds later the ball falls",
    "12.5 s of rain",
    "5m tall statue",
    "4c curly hair",
    "Scene 1: a fox",
    "a star -- then a ball",
    "well--known",
    "star,time,space",
    "1girl,solo",
    "16mm film",
    "🦊🌊",
    "...and then",
    "3D render",
    "4K, a fox",
    "a fox at 5:30 in the morning",
    "3, two, one",
    "24 hours later",
    "20s flapper",
    "(a fox) runs",
    "-20 degrees",
    "t-shirt",
    "1st person",
    "8-bit castle",
    "100% wool",
    "1/2 moon",
    "At night: a fox",
    "(red:1.3) star, <lora:style:0.8>",
    "the text: hello",
    "prompters: a crowd",
    "1980",
    "text, logo",
]


@pytest.mark.parametrize("line", MEANT)
def test_a_line_is_shown_as_it_should_be(line: str):
    with pytest.raises(TimelineError) as caught:
        Timeline.parse(f"a ball\n{line}", source="t.txt")
    assert str(caught.value).startswith("t.txt:2:")
    assert MEANT[line] in str(caught.value)
    assert "; " in str(caught.value)
    assert "'|' before" in str(caught.value)


@pytest.mark.parametrize("line", ["5s A red star", "- A red star", "A star [5s] | A ball"])
def test_a_bar_makes_any_of_them_a_prompt(line: str):
    assert Timeline.parse(f"| {line}").cues[0].prompt == line
    assert Timeline.parse(f"0:00 | {line}").cues[0].prompt == line


@pytest.mark.parametrize("prompt", ORDINARY)
def test_ordinary_prompts_are_no_times(prompt: str):
    assert Timeline.parse(prompt).cues[0].prompt == prompt
    assert Timeline.parse(f"0:00 {prompt}").cues[0].prompt == prompt


@pytest.mark.parametrize("mark", ["- ", "– ", "— ", "-> ", "--> ", ": "])
def test_what_stands_between_time_and_prompt_is_no_prompt(mark: str):
    with pytest.raises(TimelineError, match="write the prompt alone, 'A red star', or") as caught:
        Timeline.parse(f"0:00 {mark}A red star")
    assert caught.value.column == 6


@pytest.mark.parametrize("prompt", ["- a fox", "a --seed 3", "a [5s] b", "-> x", "5s a fox"])
def test_prompts_of_every_kind_can_be_printed(prompt: str):
    timeline = Timeline(cues=(Cue(start=Moment(0), prompt=prompt),))
    assert Timeline.parse(str(timeline)) == timeline


def test_an_indented_time_is_no_part_of_a_prompt():
    with pytest.raises(TimelineError, match="remove the blanks") as caught:
        Timeline.parse("0:00 a\n    0:05 b")
    assert (caught.value.line, caught.value.column) == (2, 5)
    assert Timeline.parse("0:00 a\n   at 0:05 b").cues[0].prompt == "a at 0:05 b"


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("p.json", '[\n "A red star"\n]', "JSON, which"),
        ("p.JSON", '{"0": "A red star"\n}', "JSON, which"),
        ("p.txt", '{\n  "prompts": ["A red star"]\n}', "JSON, which"),
        ("p.csv", "A red star", "a table"),
        ("p.srt", "A red star", "SRT"),
        ("p.txt", "1\n00:00:00,000 --> 00:00:05,000\nA red star\n", "SRT"),
        ("p.vtt", "A red star", "WebVTT"),
        ("p", "WEBVTT\n\n00:00.000 --> 00:05.000\nA red star\n", "WebVTT"),
        ("p.yaml", "A red star", "YAML"),
        ("p.yml", "A red star", "YAML"),
    ],
)
def test_files_of_other_tools_are_told_apart(tmp_path: Path, name: str, text: str, what: str):
    path = tmp_path / name
    path.write_text(text)
    file = PromptFile(path)
    with pytest.raises(TimelineError, match=f"this is an? {what}|this is {what}") as caught:
        find_import(file).read(file, ImportOptions(clock=CLOCK))
    assert "such as '0:05 A red star'" in str(caught.value)


@pytest.mark.parametrize("text", ["0:00 a", "\ufeff0:00 a"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_said_as_such(tmp_path: Path, text: str, encoding: str):
    path = tmp_path / "t.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(TimelineError, match="this is UTF-16"):
        Timeline.read(path)


def test_a_video_is_not_taken_for_utf_16(tmp_path: Path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\0\0\0\x1cftypisom\0\0\2\0")
    with pytest.raises(TimelineError, match=r"holds the control character \\x00"):
        Timeline.read(path)
