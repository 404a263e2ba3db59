"""Lines that look like a time or like another tool's file, and would be read as prompts.

A prompt of such a shape can be had all the same: `|` stands before it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from afstream.timeline.lines import shown
from afstream.timeline.moment import HOUR_S, LIMIT, MINUTE_S, clock_time

# A time is among the first characters of a line.
HEAD_CHARS = 40
EXAMPLE = "0:05 A red star"

COLON = "[:：∶꞉]"  # noqa: RUF001 - as East Asian keyboards write it
DASH = "[-–—]"  # noqa: RUF001
CLOCK = rf"\d{{1,6}}{COLON}[0-5]\d(?:{COLON}[0-5]\d)?(?:[.,]\d{{1,6}})?"
NUMBER = r"\d{1,9}(?:\.\d{1,6})?"
SECONDS = rf"{NUMBER}(?:secs?|s)|\d{{1,6}}m\s?\d\d?s"
TIME = rf"{CLOCK}|{SECONDS}"
TEXT = "(?P<text>.+)"
QUOTE = "[\"']?"
QUOTED = rf"(?P<text>.*?){QUOTE}"
SIGN = f"(?:{COLON}|{DASH})"
OPEN, CLOSE = r"[\[(<{【（［「]", r"[\])>}】）］」]"  # noqa: RUF001
# `80s neon street` and `1950s car` begin with a decade, and no time.
DECADE = r"(?:[2-9]|\d{3})0s\s"
MARK = rf"(?:(?:{DASH}|[*+•]|\d{{1,3}}[.)])\s+)"
SETTING = "time|start|end|start_?time|end_?time|at|t|seed|duration|fps|frames?|steps"
AFTER = rf"\s*(?:{COLON}|{DASH}|[,;|])?\s+"
# Thousands such as in `1,000 balloons` are no columns.
COLUMNS = r"(?!\d{1,3}(?:,\d{3})+\b)\d+(?:\.\d+)?[,;](?:\s?\d+(?:\.\d+)?[,;])*(?!\s)"
HEADINGS = frozenset(
    [
        "time",
        "start",
        "end",
        "seconds",
        "timestamp",
        "frame",
        "id",
        "index",
        "prompt_index",
        "prompt",
        "prompts",
        "text",
        "caption",
        "description",
        "duration",
        "seed",
    ]
)


class Fault(NamedTuple):
    """Something that is probably not meant as a prompt.

    Attributes:
        offset: where it begins in the text.
        message: what was found, and what to write instead.
    """

    offset: int
    message: str


def shape(what: str, pattern: str) -> tuple[str, re.Pattern[str]]:
    """What a line looks like that begins so; its groups are what a timeline would keep of it."""
    return what, re.compile(pattern, re.IGNORECASE | re.DOTALL)


# A line is told by the first that fits. `text` is the prompt; `time`, `number` and `counted` are
# seconds in any notation, a number without a unit, and a number of frames, latents or chunks.
SHAPES = (
    shape("JSON", r'\{\s*(?:["\[]|$)|\[\s*(?:["{\[]|$)|[\]}],?$'),
    shape("a file of subtitles", rf"WEBVTT\b|(?:{CLOCK})\s+-->"),
    shape("a list of times", rf"{MARK}[\[(]?(?P<time>{TIME})[\])]?{AFTER}{TEXT}"),
    shape("a time in other brackets", rf"{OPEN}(?P<time>{TIME}){CLOSE}\s*{SIGN}?\s*{TEXT}"),
    shape("a time", rf"(?P<time>{CLOCK}){AFTER}{TEXT}"),
    shape("a time", rf"(?!{DECADE})(?P<time>{SECONDS}){AFTER}{TEXT}"),
    # Not so `12.5 s of rain`.
    shape("a time", rf"(?P<time>{NUMBER} (?:secs?|s))\s+(?=(?-i:[A-Z])){TEXT}"),
    shape("a time", rf"(?P<time>{NUMBER}\s?s(?:ec(?:ond)?s?)?)\s*{SIGN}\s*{TEXT}"),
    shape("a time", rf"(?P<counted>\d{{1,9}}[fl]|\d{{2,9}}c){AFTER}{TEXT}"),
    shape("a time", rf"(?P<number>{NUMBER})\s+{DASH}\s+{TEXT}"),
    shape("a frame and its prompt", rf"(?:frames?\s+)?(?P<number>\d{{1,9}})\s*{COLON}\s+{TEXT}"),
    shape("a row of a table", rf"(?P<number>{NUMBER})\t\s*{TEXT}"),
    shape("a row of a table", rf"{COLUMNS}{QUOTE}{QUOTED}$"),
    shape("a setting", rf"{MARK}?{QUOTE}(?:{SETTING}){QUOTE}\s*[:=]\s*{QUOTE}[+-]?\d"),
    shape("a word that needs a time before it", "(?P<word>(?:blend|note)=.+)"),
    shape("an item of a list", rf"{MARK}{TEXT}"),
    shape("a key and its value", rf"{QUOTE}(?:\w+[-_ ])?prompts?{QUOTE}\s*:\s*{QUOTE}{QUOTED}$"),
    shape("a ruling line", rf"(?:{DASH}|[=_*~.]){{3,}}$"),
)

# Between a time and its prompt, as chapters of videos have it.
SEPARATOR = re.compile(rf"(?:{DASH}+>?|{COLON})\s+")
OPTIONS = "neg|negative|seed|ar|aspect|cfg|steps|fps|width|height|no|style|stylize|v|q"
# What other tools read inside a prompt.
INSIDE = (
    ("an option of another tool", re.compile(rf"(?<!\S)--(?:{OPTIONS})(?:-prompt)?(?![^\s=])")),
    ("a time inside a prompt", re.compile(rf"\[(?:{CLOCK}|{NUMBER}[sflc])[#\]]")),
)


def untimed_fault(line: str) -> Fault | None:
    """What is wrong with a line without a time, if it looks like anything but a prompt."""
    head, rest = line[:HEAD_CHARS], line[HEAD_CHARS:]
    text = "".join(map(ascii_digit, head)) + rest
    if looks_like_headings(text):
        return Fault(0, told(line, "the headings of a table", f"'{EXAMPLE}' for each row"))
    for what, pattern in SHAPES:
        if match := pattern.match(text):
            return Fault(0, told(line, what, advice(match)))
    return inner_fault(line)


def timed_fault(prompt: str) -> Fault | None:
    """What is wrong with a prompt after a time, if other tools would not show all of it."""
    if match := SEPARATOR.match(prompt):
        return Fault(
            0,
            f"found {match[0].strip()!r} between time and prompt; write the prompt alone,"
            f" {shown(prompt[match.end() :])}, or '|' before one that begins so",
        )
    return inner_fault(prompt)


def inner_fault(prompt: str) -> Fault | None:
    """What is wrong inside a prompt."""
    for what, pattern in INSIDE:
        if match := pattern.search(prompt):
            return Fault(
                match.start(),
                f"found {shown(match[0])}, {what}; times and words such as seed=7 stand before a"
                " prompt; remove it, or write '|' before the prompt to keep it",
            )
    return None


def told(line: str, what: str, instead: str) -> str:
    """The message about a line."""
    return (
        f"{shown(line)} looks like {what}, not like a prompt; write {instead}, or '|' before a"
        " prompt that begins so"
    )


def advice(match: re.Match[str]) -> str:
    """The line as a timeline would have it."""
    found = match.groupdict()
    text = found.get("text")
    if found.get("word"):
        return shown(f"0:05 {found['word']}")
    if not text:
        return f"'{EXAMPLE}', one cue a line"
    if found.get("time"):
        return shown(f"{clock_time(seconds_of(found['time']))} {text}")
    if found.get("counted"):
        return shown(f"[{found['counted'].lower()}] {text}")
    if number := found.get("number"):
        as_seconds = shown(f"{clock_time(float(number))} {text}")
        frames = f" or {shown(f'[{number}f] {text}')} for frames" if number.isdecimal() else ""
        return f"{as_seconds} for seconds{frames}"
    return shown(text)


def seconds_of(time: str) -> float:
    """Seconds of a time in any notation of `SHAPES`; 0 for one that no timeline can have."""
    minutes, _, rest = time.rpartition("m") if re.match(r"\d+m", time) else ("0", "", time)
    parts = re.split(COLON, re.sub(r"[^\d.:：∶꞉]", "", rest.replace(",", ".")))  # noqa: RUF001
    values = [float(part or 0) for part in [*parts[:-1], parts[-1].strip(".")]]
    units = (1, MINUTE_S, HOUR_S)
    total = sum(value * unit for value, unit in zip(reversed(values), units, strict=False))
    total += MINUTE_S * float(minutes)
    return total if total < LIMIT else 0.0


def looks_like_headings(line: str) -> bool:
    """Whether a line is the first of a table: at least two known headings and nothing else."""
    words = [word.strip().strip("\"'").lower() for word in re.split(r"[,;\t|]", line)]
    return all(re.fullmatch(r"\w+", word) for word in words) and len(HEADINGS & {*words}) > 1


def ascii_digit(character: str) -> str:
    """A digit of any script as one of ASCII; anything else as it is."""
    value = unicodedata.decimal(character, None)
    return character if value is None else str(value)
