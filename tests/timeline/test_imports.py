"""Formats of prompt files: found by suffix or content; a new one is a class and a row."""

from pathlib import Path

import pytest
from tests.guide import worked_example
from tests.timeline.clocks import CLOCK

from afstream.errors import ConfigError, TimelineError
from afstream.timeline import Moment, Timeline, imports
from afstream.timeline.imports import ImportOptions, PromptFile, find_import
from afstream_cli.inputs import read_timeline

OPTIONS = ImportOptions(clock=CLOCK)
JSON_LINE = '{"prompts": ["a fox", "an owl"]}\n'


def read(path: Path, options: ImportOptions = OPTIONS) -> Timeline:
    """The timeline that a command would play."""
    return read_timeline(path, options, seed=None, duration=None)


def saved(folder: Path, name: str, text: str) -> Path:
    """A file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["p.jsonl", "p.JSONL", "p.txt", "p"])
def test_json_lines_are_known_by_suffix_or_content(tmp_path: Path, name: str):
    timeline = read(saved(tmp_path, name, JSON_LINE))
    assert [cue.prompt for cue in timeline.cues] == ["a fox", "an owl"]
    assert timeline.duration is not None
    assert str(timeline.duration) == "[80l]"


@pytest.mark.parametrize(
    "text", ["a fox", "0:00 a fox", '{{"prompts"}} a fox', "@let x = y\na fox"]
)
def test_anything_else_is_a_timeline(tmp_path: Path, text: str):
    kind = find_import(PromptFile(saved(tmp_path, "p.txt", text)))
    assert kind.name == "a timeline"


def test_a_suffix_is_believed_before_the_content(tmp_path: Path):
    with pytest.raises(TimelineError, match=r"p.jsonl:1:2: not JSON"):
        read(saved(tmp_path, "p.jsonl", "0:00 a fox"))


@pytest.mark.parametrize(
    "options", [ImportOptions(clock=CLOCK, line=1), ImportOptions(clock=CLOCK, switch_frames=(3,))]
)
def test_options_that_a_format_does_not_use_are_refused(tmp_path: Path, options: ImportOptions):
    path = saved(tmp_path, "p.txt", "0:00 a fox")
    with pytest.raises(ConfigError, match=r"for \.jsonl files; .*p.txt is read as a timeline,"):
        read(path, options)
    read(saved(tmp_path, "p.jsonl", JSON_LINE), options)


def test_a_pipe_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = saved(tmp_path, "p", JSON_LINE)
    reads: list[Path] = []
    open_file = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode: reads.append(self) or open_file(self, mode)
    )
    read(path)
    assert reads == [path]


def test_the_worked_example_of_contributing_is_a_class_and_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What CONTRIBUTING shows reads files, in the command's own way, once its row stands."""
    by_suffix = saved(tmp_path, "p.csv", "seconds,prompt\n0,a fox\n2.5,an owl\n")
    by_content = saved(tmp_path, "p.txt", "seconds,prompt\n0,a fox\n2.5,an owl\n")
    for path, words in ((by_suffix, "a table"), (by_content, "headings of a table")):
        with pytest.raises(TimelineError, match=words):
            read(path)

    before = imports.IMPORTS
    shown = worked_example("A new import of timelines", **vars(imports))
    others = [type(kind) for kind in shown["IMPORTS"] if type(kind) is not shown["CsvImport"]]
    assert others == [type(kind) for kind in before]
    monkeypatch.setattr(imports, "IMPORTS", shown["IMPORTS"])
    for path in (by_suffix, by_content):
        timeline = read(path)
        assert [(cue.start, cue.prompt) for cue in timeline.cues] == [
            (Moment(0), "a fox"),
            (Moment(2.5), "an owl"),
        ]
    with pytest.raises(TimelineError, match=r"p.csv:3:1: found 'soon'; write seconds"):
        read(saved(tmp_path, "p.csv", "seconds,prompt\n0,a fox\nsoon,an owl\n"))
    # the other formats are read as before
    assert len(read(saved(tmp_path, "p.jsonl", JSON_LINE)).cues) == 2
    assert len(read(saved(tmp_path, "t.txt", "0:00 a fox\n0:05 an owl")).cues) == 2
