"""Every error of a timeline: file, line, column, what was found, what is allowed, what to do."""

import pickle
from pathlib import Path

import pytest
from tests.timeline.clocks import CLOCK

from afstream.errors import TimelineError
from afstream.timeline import Cue, Moment, Timeline, Unit
from afstream.timeline.cue import MAX_CUES
from afstream.timeline.lines import MAX_LINES

# name: text, line, column, words that the message must hold
FAULTS: dict[str, tuple[str, int, int, list[str]]] = {
    "empty": ("", 1, 1, ["no cue"]),
    "only comments": ("# a\n\n@seed 1", 1, 1, ["no cue"]),
    "nothing to continue": ("\n  a", 2, 3, ["indented"]),
    "first cue late": ("0:05 a", 1, 1, ["first cue", "0:05", "0:00"]),
    "first cue relative": ("[+8s] a", 1, 1, ["first cue", "[+8s]", "0:00"]),
    "no time": ("0:00 a\n0:10 b\nc", 3, 1, ["without a time", "line 1", "indent"]),
    "no time in the first line": ("a\n0:10 b", 1, 1, ["without a time", "line 2"]),
    "bare number": ("0:00 a\n12 b", 2, 1, ["without a time", "'12'", "[12s]"]),
    "bare seconds": ("0:00 a\n12.5s b", 2, 1, ["'12.5s b'", "a time", "'0:12.5 b'"]),
    "out of order": ("0:00 a\n0:10 b\n0:08 c", 3, 1, ["0:08", "before", "line 2", "0:10"]),
    "out of order by latents": ("0:00 a\n[60l] b\n[9c] c", 3, 1, ["[9c]", "before", "line 2"]),
    "before the scene": ("0:00 a\n[60l] cut b\n[9l] c", 3, 1, ["[9l]", "before", "line 2"]),
    "same time twice": ("0:00 a\n0:10 b\n[10s] c", 3, 1, ["0:10", "as does", "line 2"]),
    "same time twice by units": ("0:00 a\n[42l] b\n[14c] c", 3, 1, ["as does", "line 2"]),
    "nothing later": ("0:00 a\n[+0s] b", 2, 1, ["0:00", "as does", "line 1"]),
    "shorter than a chunk": ("0:00 a\n0:10 b\n0:10.2 c", 3, 1, ["0:10.3125", "at least one chunk"]),
    "too soon after the start": ("0:00 a\n0:00.5 b\n[9f] c", 3, 1, ["after 0:00.5625"]),
    "past the end": ("@duration 0:10\n0:00 a\n0:12 b", 3, 1, ["0:12", "past the end", "0:10"]),
    "at the end": ("@duration 0:10\n0:00 a\n0:10 b", 3, 1, ["past the end"]),
    "no chunk left": ("@duration 0:10\n0:00 a\n0:09.9 b", 3, 1, ["past the end", "0:10.3125"]),
    "past the end in chunks": ("@duration 13c\n0:00 a\n[13c] b", 3, 1, ["past the end", "[13c]"]),
    "too many lines": ("@duration 1s\na\nb\nc\nd\ne", 4, 1, ["at least one chunk"]),
    "minutes in a clock": ("0:00 a\n1:60:00 b", 2, 1, ["'1:60:00'", "not a time"]),
    "seconds in a clock": ("0:00 a\n0:60 b", 2, 1, ["'0:60'", "not a time", "below 60"]),
    "one digit of seconds": ("0:5 a", 1, 1, ["'0:5'", "0:10", "'|'"]),
    "glued clock": ("0:05a fox", 1, 1, ["'0:05a'"]),
    "screen format": ("16:9 picture of a fox", 1, 1, ["'16:9'", "'|'"]),
    "other brackets": ("[2s: a fox]", 1, 1, ["'[2s: a fox]'", "[12.5s]"]),
    "open bracket": ("[2s a fox", 1, 1, ["not a time"]),
    "half a chunk": ("0:00 a\n[1.5c] b", 2, 1, ["'[1.5c]'"]),
    "too long a time": ("0:00 a\n[99999999999s] b", 2, 1, ["not a time"]),
    "time without digits": ("[+s] a", 1, 1, ["not a time"]),
    "missing prompt": ("0:00", 1, 5, ["no prompt"]),
    "missing prompt after words": ("0:00 a\n0:10 cut  seed=3", 2, 17, ["no prompt"]),
    "missing prompt after a bar": ("0:00 |", 1, 7, ["no prompt"]),
    "empty name": ("@let x = {{\n@let y = |\n0:00 {z}", 3, 6, ["'z'"]),
    "unknown word": ("0:00 a\n0:10 fade=2s b", 2, 6, ["'fade=2s'", "blend=1.5s", "'|'"]),
    "misspelt word": ("0:00 a\n0:10 cut sed=2 b", 2, 10, ["'sed=2'", "perhaps 'seed'"]),
    "word in capitals": ("0:00 a\n0:10 Blend=2s b", 2, 6, ["perhaps 'blend'"]),
    "word twice": ("0:00 seed=1 seed=1 a", 1, 13, ["'seed=1'", "one seed"]),
    "two transitions": ("0:00 a\n0:10 cut switch b", 2, 10, ["'switch'", "one transition"]),
    "blend without unit": ("0:00 a\n0:10 blend=2 b", 2, 6, ["'2'", "blend=1.5s"]),
    "blend without value": ("0:00 a\n0:10 blend= b", 2, 6, ["''", "blend=1.5s"]),
    "negative blend": ("0:00 a\n0:10 blend=-1s b", 2, 6, ["'-1s'"]),
    "seed not a number": ("0:00 seed=x a", 1, 6, ["seed is 'x'"]),
    "seed too large": ("0:00 seed=9223372036854775808 a", 1, 6, ["9223372036854775807"]),
    "note not closed": ('0:00 note="x a', 1, 6, ["quotes"]),
    "note without value": ("0:00 note= a", 1, 6, ["note is ''"]),
    "note glued": ('0:00 note="x"a', 1, 14, ["'a'", "blank"]),
    "blend and cut": ("0:00 a\n0:10 cut blend=1s b", 2, 10, ["blend", "cut"]),
    "cut and blend": ("0:00 a\n0:10 blend=1s cut b", 2, 6, ["blend", "cut"]),
    "blend on the first cue": ("0:00 blend=1s a", 1, 6, ["first cue"]),
    "blend too long": ("0:00 a\n0:10 seed=1 blend=6s b\n0:15 c", 2, 13, ["6 s", "8 chunks", "7"]),
    "last blend too long": ("@duration 0:12\n0:00 a\n0:10 blend=3s b", 3, 6, ["3 s", "lasts 3"]),
    "unknown directive": ("@fps 24\n0:00 a", 1, 1, ["'@fps'", "@seed, @duration", "'|'"]),
    "misspelt directive": ("@Sed 24\n0:00 a", 1, 1, ["'@Sed'", "perhaps '@seed'"]),
    "directive without name": ("@ 24", 1, 1, ["'@'"]),
    "directive twice": ("@seed 1\n0:00 a\n@seed 1", 3, 1, ["'@seed'", "line 1"]),
    "suffix twice": ("@suffix a\n@suffix b", 2, 1, ["'@suffix'", "line 1"]),
    "bad seed": ("@seed  many\n0:00 a", 1, 8, ["'many'"]),
    "comment after a value": ("@seed 42 # lucky", 1, 7, ["'42 # lucky'"]),
    "bad duration": ("@duration long\n0:00 a", 1, 11, ["'long'", "1:00", "12.5s"]),
    "relative duration": ("@duration [+8s]\n0:00 a", 1, 11, ["'[+8s]'"]),
    "no duration": ("@duration 0:00\n0:00 a", 1, 11, ["above 0"]),
    "live with a value": ("@live yes\n0:00 a", 1, 7, ["'yes'"]),
    "let without text": ("@let fox =\n0:00 a", 1, 11, ["no text"]),
    "let without name": ("@let = a fox\n0:00 a", 1, 6, ["@let fox = a red fox"]),
    "let with a bad name": ("@let red-fox = a fox", 1, 6, ["letters, digits and _"]),
    "let twice": ("@let a = 1\n@let a = 2", 2, 6, ["'a'", "line 1"]),
    "suffix without text": ("@suffix\n0:00 a", 1, 8, ["no text"]),
    "unknown name": ("@let fox = f\n0:00 a {fos}", 2, 8, ["'fos'", "perhaps 'fox'", "'{{'"]),
    "name given below": ("0:00 {fox}\n@let fox = f", 1, 6, ["no line above"]),
    "unknown name, continued": ("0:00 a\n   b {fox}", 2, 6, ["'fox'"]),
    "unknown name in a let": ("@let a = {b}", 1, 10, ["'b'"]),
    "lone brace": ("0:00 a { b", 1, 8, ["'{'", "'{{'"]),
    "lone closing brace": ("a } b", 1, 3, ["'}'", "'}}'"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_say_where_and_what(name: str):
    text, line, column, words = FAULTS[name]
    with pytest.raises(TimelineError) as caught:
        Timeline.parse(text, source="fox.txt").plan(CLOCK)
    error = caught.value
    assert (error.source, error.line, error.column) == ("fox.txt", line, column)
    assert str(error).startswith(f"fox.txt:{line}:{column}: ")
    assert "; " in str(error)
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error)


def test_names_cannot_grow_without_end():
    text = "@let a0 = word\n" + "".join(f"@let a{n + 1} = {{a{n}}} {{a{n}}}\n" for n in range(40))
    with pytest.raises(TimelineError, match=r"^timeline.txt:13:12: the text grows beyond 20,000"):
        Timeline.parse(text + "0:00 {a40}")


def test_a_suffix_counts_towards_the_length_of_a_prompt():
    with pytest.raises(TimelineError, match=r"^timeline.txt:2:1: a prompt has 20,004 characters"):
        Timeline.parse(f"@suffix abc\n{'x' * 20_000}")


@pytest.mark.parametrize(
    ("data", "line", "column"),
    [(b"0:00 caf\xe9", 1, 9), (b"\xef\xbb\xbf\xff", 1, 1), (b"0:00 a\r\n\xc3\xa9 \xff", 2, 3)],
)
def test_not_utf8(data: bytes, line: int, column: int, tmp_path: Path):
    path = tmp_path / "timeline.txt"
    path.write_bytes(data)
    with pytest.raises(TimelineError, match="is not UTF-8; a timeline is UTF-8 text") as caught:
        Timeline.read(path)
    error = caught.value
    assert (error.source, error.line, error.column) == (str(path), line, column)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(TimelineError, match=r"none\.txt: cannot read it: No such file"):
        Timeline.read(tmp_path / "none.txt")
    with pytest.raises(TimelineError, match="cannot read it"):
        Timeline.read(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": " \n"}, "no prompt"),
        ({"prompt": "x" * 20_001}, "20,001 characters"),
        ({"prompt": "a fox\ud800"}, r"half a surrogate pair, \\ud800 behind 'a fox'; remove it"),
        ({"note": "\udfff"}, "surrogate"),
        ({"prompt": "a \x1b[2Jfox"}, r"a prompt holds the control character \\x1b behind 'a '"),
        ({"prompt": "a \u202efox"}, r"the control character \\u202e"),
        ({"note": "\x7f"}, r"a note holds the control character \\x7f"),
        ({"note": "x" * 20_001}, "a note has 20,001 characters"),
        ({"transition": "fade"}, "'fade'; write 'switch' or 'cut'"),
        ({"blend_s": -1.0}, "blend lasts -1.0 s"),
        ({"blend_s": float("nan")}, "blend lasts nan s"),
        ({"blend_s": 1.0, "transition": "cut"}, "a cut cannot blend"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
    ],
)
def test_cues_made_in_code(fields: dict[str, str], message: str):
    with pytest.raises(TimelineError, match=message):
        Cue(**{"start": Moment(0), "prompt": "a fox", **fields})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [-1.0, 1e9, 999999999.9999999, float("nan"), float("inf")])
def test_moments_out_of_range(value: float):
    with pytest.raises(TimelineError, match="a time is"):
        Moment(value)


def test_only_seconds_have_fractions():
    with pytest.raises(TimelineError, match=r"1\.5 chunks"):
        Moment(1.5, Unit.CHUNKS)


def test_timelines_made_in_code():
    fox = Cue(start=Moment(0), prompt="a fox")
    with pytest.raises(TimelineError, match="no cue"):
        Timeline(cues=())
    with pytest.raises(TimelineError, match="seed is -1"):
        Timeline(cues=(fox,), seed=-1)
    with pytest.raises(TimelineError, match="duration is 0:00"):
        Timeline(cues=(fox,), duration=Moment(0))
    with pytest.raises(TimelineError, match=r"^the cue starts at 0:00, as does the cue before it"):
        Timeline(cues=(fox, fox)).plan(CLOCK)


def test_the_place_survives_pickling():
    with pytest.raises(TimelineError) as caught:
        Timeline.parse("0:05 a")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (str(error), error.line) == (str(caught.value), 1)


def many(line: str, count: int) -> str:
    return "".join(line.format(n) for n in range(count))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # 319 kB that would become 1.9 GB
        (f"@let a = {'x' * 19_000}\n0:00 {'{a}' * 30_000}", r":2:6: the text grows beyond 20,000"),
        (many("[{}c] a\n", MAX_CUES + 1), rf":{MAX_CUES + 1}:1: more than {MAX_CUES:,} cues"),
        (f"@let a = {'x' * 19_000}\n" + many("[{}c] {{a}}\n", 900), r":844:1: more than 16,000,"),
        (f"@suffix {'x' * 19_000}\n" + many("[{}c] a\n", 900), r":844:1: more than 16,000,000"),
        (f"@let a = {'x' * 19_000}\n" + many("@let b{} = {{a}}\n", 900), r":843:6: the texts of"),
        (
            many("  # {}\n", 10) + "a\n" + many(" {}\n", MAX_LINES),
            r":\d+:2: a timeline has at most",
        ),
        ("0:00 " + "x" * 100_000, ":1:1: a line has 100,005 characters; at most 100,000"),
        (many("@let a{} = b\n", 30_000) + "0:00 {c}", r"give a0, a1, a2 and 29,997 more; name it"),
    ],
    ids=["names", "cues", "cues with names", "suffix", "lets", "lines", "line", "unknown name"],
)
def test_timelines_that_would_take_for_ever(text: str, message: str):
    with pytest.raises(TimelineError, match=message) as caught:
        Timeline.parse(text)
    assert len(str(caught.value)) < 300


def test_a_file_that_is_too_large_is_not_read():
    with pytest.raises(TimelineError, match="/dev/zero: it has more than 16 MB; give shorter"):
        Timeline.read("/dev/zero")
