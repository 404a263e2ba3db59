"""Prompt files of LongLive, MemFlow and Anchor Forcing."""

import json
import re
from pathlib import Path

import pytest
from tests.timeline.clocks import CLOCK

from afstream.errors import TimelineError
from afstream.geometry import ChunkClock
from afstream.timeline import Timeline
from afstream.timeline.imports import ImportOptions, PromptFile, find_import, jsonl

DOCS = Path(__file__).parents[2] / "docs" / "timeline.md"


def line(*prompts: str, **more: object) -> str:
    """One line of a prompt file."""
    return json.dumps({"prompts": prompts, **more}) + "\n"


def parse_jsonl(
    text: str,
    source: str = "prompts.jsonl",
    *,
    when: ChunkClock = CLOCK,
    switch_frames: tuple[int, ...] = (),
    num_latents: int | None = None,
) -> list[Timeline]:
    """The timelines of a text."""
    numbers = [number for number, row in enumerate(text.split("\n"), 1) if row.strip()]
    return [
        jsonl.parse(
            text,
            source,
            ImportOptions(
                clock=when, switch_frames=switch_frames, num_latents=num_latents, line=number
            ),
        ).timeline
        for number in numbers or [None]
    ]


def starts(timeline: Timeline) -> list[str]:
    """The times of a timeline and its end."""
    return [*(str(cue.start) for cue in timeline.cues), str(timeline.duration)]


def test_lines_with_differing_numbers_of_prompts():
    text = line("a", "b", "c") + "\n" + line("d", "e", seed=7) + line("f")
    three, two, one = parse_jsonl(text, switch_frames=(40, 80))
    assert starts(three) == ["[0l]", "[40l]", "[80l]", "[120l]"]
    assert starts(two) == ["[0l]", "[40l]", "[80l]"]
    assert starts(one) == ["[0l]", "[40l]"]
    assert [timeline.seed for timeline in (three, two, one)] == [None, 7, None]
    assert [timeline.cues[0].line for timeline in (three, two, one)] == [1, 3, 4]
    assert [cue.chunk for cue in three.plan(CLOCK).cues] == [0, 14, 27]
    assert three.plan(CLOCK).num_chunks == 40


@pytest.mark.parametrize(
    ("switch_frames", "num_latents", "expected"),
    [
        ((), None, ["[0l]", "[40l]", "[80l]", "[120l]"]),
        ((), 240, ["[0l]", "[80l]", "[160l]", "[240l]"]),
        ((), 100, ["[0l]", "[33l]", "[66l]", "[100l]"]),
        ((21, 39), 240, ["[0l]", "[21l]", "[39l]", "[240l]"]),
        ((21, 39), None, ["[0l]", "[21l]", "[39l]", "[57l]"]),
        ((21, 39, 99, 200), None, ["[0l]", "[21l]", "[39l]", "[99l]"]),
    ],
)
def test_when_prompts_change(
    switch_frames: tuple[int, ...], num_latents: int | None, expected: list[str]
):
    [timeline] = parse_jsonl(
        line("a", "b", "c"), switch_frames=switch_frames, num_latents=num_latents
    )
    assert starts(timeline) == expected


@pytest.mark.parametrize(
    "record", [{"prompts": ["a"]}, {"prompts_list": ["a"]}, {"prompt": "a"}, {"prompt": ["a"]}]
)
def test_keys_in_use(record: dict[str, object]):
    [timeline] = parse_jsonl(json.dumps({"id": 3, **record}))
    assert timeline.cues[0].prompt == "a"


def test_prompts_are_taken_as_they_are():
    [timeline] = parse_jsonl(line("cut {fox} # 1\nnext", "@x"))
    assert [cue.prompt for cue in timeline.cues] == ["cut {fox} # 1 next", "@x"]
    assert Timeline.parse(str(timeline)) == timeline


def test_reading_and_picking(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\ufeff\n" + line("a") + line("b"), encoding="utf-8")
    file = PromptFile(path)

    def prompt(line: int | None) -> str:
        options = ImportOptions(clock=CLOCK, line=line)
        return find_import(file).read(file, options).timeline.cues[0].prompt

    assert [prompt(line) for line in (None, 2, 3)] == ["a", "a", "b"]
    with pytest.raises(TimelineError, match="no prompts on line 1; lines 2 to 3 hold them"):
        prompt(1)


def test_a_fault_on_another_line_is_none_of_this_ones(tmp_path: Path):
    text = line("a", "b", "c") + line("d", "e") + "{oops\n"
    options = ImportOptions(clock=CLOCK, switch_frames=(40,), line=2)
    assert starts(jsonl.parse(text, "p.jsonl", options).timeline) == ["[0l]", "[40l]", "[80l]"]
    with pytest.raises(TimelineError, match=r"^p.jsonl:3:2: not JSON"):
        jsonl.parse(text, "p.jsonl", ImportOptions(clock=CLOCK, line=3))


def test_what_is_left_out_is_said():
    text = line("a", num=2, id=3) + line("b")
    plain = ImportOptions(clock=CLOCK)
    others, keys = jsonl.parse(text, "p.jsonl", plain).notes
    assert "2 videos; line 1 is played, --line" in others
    assert keys == (
        "p.jsonl:1: of such lines only prompts and seed are read; left out: 'num', 'id'"
    )
    assert jsonl.parse(text, "p.jsonl", ImportOptions(clock=CLOCK, line=2)).notes == ()
    assert jsonl.parse(line("a", seed=3), "p.jsonl", plain).notes == ()


def test_the_example_of_the_docs():
    block = re.findall(r"^```json\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    three, two = parse_jsonl(block[0], switch_frames=(40, 80))
    assert (len(three.cues), len(two.cues), two.seed) == (3, 2, 7)


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("{", 2, "not JSON"),
        ('{"prompts": ["a"]} x', 20, "not JSON"),
        ('["a"]', 1, "one object a line"),
        ("{}", 1, "exactly one of prompts"),
        ('{"prompts": ["a"], "prompt": "b"}', 1, "exactly one of prompts"),
        ('{"prompts": []}', 1, "'prompts' is '[]'"),
        ('{"prompts": ["a", " "]}', 1, "none of them empty"),
        ('{"prompts": [3]}', 1, "one text or a list"),
        ('{"prompts": ["a"], "seed": -1}', 1, "seed is '-1'"),
        ('{"prompts": ["a"], "seed": true}', 1, "seed is 'true'"),
        ('{"prompts": ["a"], "seed": "7"}', 1, "whole number"),
        ('{"prompts": ["\\ud800"]}', 1, "surrogate"),
        ('{"prompts": ["a\\u001b]0;b\\u0007"]}', 1, "the control character \\x1b behind 'a'"),
        ('{"prompts": ["a"], "prompts": ["b"]}', 1, "something twice under one name"),
        ('{"prompts": ["a", "b", "c", "d"]}', 1, "4 prompts, but 2 switch frames; 3 are needed"),
        ('{"a": ' + "9" * 5000 + "}", 1, "a number in it has 5,000 digits"),
        ('{"a": ' + "[" * 1_000, 1, "nested more than 64 deep"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_faults_say_where_and_what(text: str, column: int, words: str):
    with pytest.raises(TimelineError, match=re.escape(words)) as caught:
        parse_jsonl(line("fine") + text, source="p.jsonl", switch_frames=(40, 80))
    error = caught.value
    assert (error.source, error.line, error.column) == ("p.jsonl", 2, column)
    assert "; " in str(error)


@pytest.mark.parametrize("frames", [(0,), (-3, 6), (40, 40), (80, 40), (40, 41)])
def test_switch_frames_that_do_not_rise(frames: tuple[int, ...]):
    with pytest.raises(TimelineError, match="at least a chunk"):
        parse_jsonl(line("a", "b", "c"), switch_frames=frames)


def test_an_empty_file():
    with pytest.raises(TimelineError, match=r"^prompts.jsonl:1:1: found no prompts"):
        parse_jsonl("\n\n")


def test_a_switch_past_the_end():
    with pytest.raises(TimelineError, match=r"^prompts.jsonl:1:1: .* past the end"):
        parse_jsonl(line("a", "b"), switch_frames=(40,), num_latents=30)[0].plan(CLOCK)
