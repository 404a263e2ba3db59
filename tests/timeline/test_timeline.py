"""The grammar of timelines, by example."""

import re
from pathlib import Path

import pytest

from afstream.errors import TimelineError
from afstream.timeline import Cue, Moment, Timeline, Unit
from afstream.timeline.lines import decode

DOCS = Path(__file__).parents[2] / "docs" / "timeline.md"

EXAMPLE = """\
@seed 42
@duration 1:00
@let fox = a red fox with a white-tipped tail
@suffix 35 mm film, one long take.

0:00                {fox} trots along a forest path.
0:10                {fox} stops at a stream and drinks.
0:20 blend=1.5s     A white owl lands on a branch above {fox}.
0:35 cut seed=7     A lighthouse in a storm at night,
                    waves breaking over the rocks.
[+10s] note="Dawn"  The storm clears over the lighthouse.
"""

PRINTED = """\
@seed 42
@duration 1:00

0:00                a red fox with a white-tipped tail trots. 35 mm film.
0:20 blend=1.5s     An owl above a red fox with a white-tipped tail. 35 mm film.
0:35 cut seed=7     A lighthouse at night. 35 mm film.
[+10s] note="Dawn"  The storm clears. 35 mm film.
"""


def prompts(text: str) -> list[str]:
    """The prompts of a timeline's text."""
    return [cue.prompt for cue in Timeline.parse(text).cues]


def starts(text: str) -> list[str]:
    """The times of a timeline's text, as they are printed."""
    return [str(cue.start) for cue in Timeline.parse(text).cues]


def blocks(language: str) -> list[str]:
    """The fenced examples of docs/timeline.md in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_of_the_grammar():
    timeline = Timeline.parse(EXAMPLE)
    fox, film = "a red fox with a white-tipped tail", "35 mm film, one long take."
    assert (timeline.seed, timeline.duration, timeline.live) == (42, Moment(60), False)
    assert timeline.cues == (
        Cue(start=Moment(0), prompt=f"{fox} trots along a forest path. {film}"),
        Cue(start=Moment(10), prompt=f"{fox} stops at a stream and drinks. {film}"),
        Cue(
            start=Moment(20),
            prompt=f"A white owl lands on a branch above {fox}. {film}",
            blend_s=1.5,
        ),
        Cue(
            start=Moment(35),
            prompt=f"A lighthouse in a storm at night, waves breaking over the rocks. {film}",
            transition="cut",
            seed=7,
        ),
        Cue(
            start=Moment(10, Unit.SECONDS, relative=True),
            prompt=f"The storm clears over the lighthouse. {film}",
            note="Dawn",
        ),
    )
    assert [cue.line for cue in timeline.cues] == [6, 7, 8, 9, 11]


def test_a_printed_timeline_reads_like_a_written_one():
    text = """\
@seed 42
@duration 60s
@let fox = a red fox with a white-tipped tail
@suffix 35 mm film.
0:00 {fox} trots.
[20s] switch blend=1.50s An owl above {fox}.
[560f] seed=7 cut A lighthouse
    at night.
[+10s] note=Dawn The storm clears.
"""
    printed = str(Timeline.parse(text))
    assert printed == PRINTED.replace("0:35", "[560f]").replace("seed=7   ", "seed=7 ")
    assert Timeline.parse(printed) == Timeline.parse(text)


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("0:10", "0:10"),
        ("00:10", "0:10"),
        ("0:12.50", "0:12.5"),
        ("90:00", "1:30:00"),
        ("1:02:03.5", "1:02:03.5"),
        ("[10s]", "0:10"),
        ("[12.5s]", "0:12.5"),
        ("[61.000001s]", "1:01.000001"),
        ("[+8s]", "[+8s]"),
        ("[+0.75s]", "[+0.75s]"),
        ("[160f]", "[160f]"),
        ("[+160f]", "[+160f]"),
        ("[40l]", "[40l]"),
        ("[+40l]", "[+40l]"),
        ("[13c]", "[13c]"),
        ("[+3c]", "[+3c]"),
    ],
)
def test_times(written: str, printed: str):
    assert starts(f"0:00 a\n{written} b") == ["0:00", printed]
    assert Moment.parse(printed) == Moment.parse(written)


@pytest.mark.parametrize("start", ["0:00", "0:00:00", "[0s]", "[0f]", "[0l]", "[0c]"])
def test_a_stream_begins_at_zero_in_any_unit(start: str):
    assert prompts(f"{start} a fox") == ["a fox"]


def test_bare_numbers_are_text():
    assert prompts("3 dogs\n80s neon street\n12.5 s of rain\n1980") == [
        "3 dogs",
        "80s neon street",
        "12.5 s of rain",
        "1980",
    ]
    assert prompts("0:00 80s neon street\n0:10 12 monkeys") == ["80s neon street", "12 monkeys"]


def test_lines_without_times_are_equally_long():
    assert starts("a\nb\nc") == ["0:00", "0:05", "0:10"]
    assert Timeline.parse("a\nb\nc").duration == Moment(15)
    assert starts("@duration 1:00\na\nb\nc") == ["0:00", "0:20", "0:40"]
    assert starts("a\nb\n@duration 25l") == ["[0l]", "[12l]"]


def test_words_need_a_time_before_them():
    timeline = Timeline.parse("cut paper flutters\nswitch on the light\n| seed=3 is text")
    assert [cue.prompt.split()[0] for cue in timeline.cues] == ["cut", "switch", "seed=3"]
    assert {cue.transition for cue in timeline.cues} == {"switch"}


def test_comments_blank_lines_and_continuations():
    text = """\
# a comment
0:00   A fox,

    # another, between two lines of one prompt
\tthe #1 fox   of
 them all   # not a comment
   \t
0:10
  cut An owl.
"""
    timeline = Timeline.parse(text)
    assert timeline.cues[0].prompt == "A fox, the #1 fox of them all # not a comment"
    assert (timeline.cues[1].prompt, timeline.cues[1].transition) == ("An owl.", "cut")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(end: str):
    assert prompts(f"0:00 a{end} b{end}0:10 c{end}") == ["a b", "c"]


def test_a_byte_order_mark_is_ignored(tmp_path: Path):
    path = tmp_path / "timeline.txt"
    path.write_bytes(b"\xef\xbb\xbf0:00 un renard\xc3\xa9")
    assert Timeline.read(path).cues[0].prompt == "un renardé"
    assert Timeline.read(str(path)) == Timeline.parse("\ufeff0:00 un renardé")


def test_names_and_braces():
    text = """\
@let fox = a red fox
@let pair = {fox} and {fox}'s cub
@let set = {{a, b}}
0:00 {pair} see { fox }, {{fox}} and {set}.
"""
    assert prompts(text) == ["a red fox and a red fox's cub see a red fox, {fox} and {a, b}."]


def test_names_of_any_alphabet():
    assert prompts("@let renard_é2 = un renard\n{renard_é2}.") == ["un renard."]


def test_directives_may_stand_after_the_cues():
    timeline = Timeline.parse("0:00 a\n@suffix on {{film}},\n  grainy\n@seed 0\n@duration 3c")
    assert timeline.cues[0].prompt == "a on {film}, grainy"
    assert (timeline.seed, timeline.duration) == (0, Moment(3, Unit.CHUNKS))


@pytest.mark.parametrize(
    ("written", "duration"),
    [
        ("1:00", Moment(60)),
        ("12.5s", Moment(12.5)),
        ("[12.5s]", Moment(12.5)),
        ("960f", Moment(960, Unit.VIDEO_FRAMES)),
        ("240l", Moment(240, Unit.LATENT_FRAMES)),
        ("[80c]", Moment(80, Unit.CHUNKS)),
    ],
)
def test_durations(written: str, duration: Moment):
    timeline = Timeline.parse(f"@duration {written}\n0:00 a")
    assert timeline.duration == duration
    assert Timeline.parse(str(timeline)) == timeline


def test_words_in_any_order():
    cue = Timeline.parse('0:00 note="say \\"hi\\" \\\\ bye" seed=3 cut a').cues[0]
    assert (cue.note, cue.seed, cue.transition) == ('say "hi" \\ bye', 3, "cut")


@pytest.mark.parametrize(
    "prompt",
    [
        "cut paper flutters",
        "switch",
        "seed=7 written on a wall",
        'note="x"y',
        "x=1 on a blackboard",
        "| a bar",
        "|",
        "a {brace} and {{two}} and } {",
        "# hash",
        "@home",
        "0:10 on a clock",
        "[12.5s]",
        "now",
        "cut, then cut",
        "Cut",
        "e = mc2",
        "“quotes” and \"quotes\" and 'quotes'",
        "ein Fuchs im Wald, 狐, 🦊",
    ],
)
def test_awkward_prompts_are_printed_so_that_they_come_back(prompt: str):
    timeline = Timeline(cues=(Cue(start=Moment(0), prompt=prompt, transition="cut"),))
    assert Timeline.parse(str(timeline)) == timeline
    untimed = Timeline.parse("| " + prompt.replace("{", "{{").replace("}", "}}"))
    assert untimed.cues[0].prompt == prompt


def test_a_prompt_is_one_paragraph():
    cue = Cue(start=Moment(0), prompt="  two\n\n lines\u2028and\ufeff more\t", note=" a\nb ")
    assert (cue.prompt, cue.note) == ("two lines and more", "a b")


def test_equality_ignores_the_layout():
    assert Timeline.parse("0:00 a b") == Timeline.parse("\n# x\n[0.0s]\n  a\n  b\n", source="y")


@pytest.mark.parametrize("text", blocks("timeline"))
def test_timelines_of_the_docs(text: str):
    timeline = Timeline.parse(text)
    assert Timeline.parse(str(timeline)) == timeline


def test_the_first_timeline_of_the_docs_is_the_example():
    assert blocks("timeline")[0] == EXAMPLE


@pytest.mark.parametrize("block", blocks("error"))
def test_errors_of_the_docs(block: str):
    text, message = block.split("---\n")
    with pytest.raises(TimelineError) as caught:
        Timeline.parse(text)
    assert str(caught.value) == message.strip()


@pytest.mark.parametrize("code", blocks("python"))
def test_code_of_the_docs(code: str, capsys: pytest.CaptureFixture[str]):
    exec(compile(code, DOCS.name, "exec"), {})
    assert capsys.readouterr().out.splitlines()[1] == "A blue heart. 14 10.3125 0.3125"


def test_decode_keeps_the_text():
    assert decode("0:00 é\n".encode(), "t") == "0:00 é\n"
