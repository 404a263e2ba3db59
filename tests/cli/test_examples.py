"""What the documentation shows must run, with the embedded model."""

import doctest
import re
from pathlib import Path

import pytest
from tests.timeline.clocks import CLOCK

import afstream
from afstream import Timeline, stream

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", [afstream, stream], ids=lambda module: module.__name__)
def test_docstring_examples(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_readme_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    # the first chunks are enough: the example plays 14 seconds
    short = code.replace('meadow.\n"""', 'meadow.\n@duration 0:06\n"""')
    assert short != code
    exec(short, {})
    assert (tmp_path / "star.mp4").stat().st_size > 0


def test_kernels_readme_python():
    text = (ROOT / "kernels" / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    exec("\n".join(blocks), {})


def test_the_example_timeline_can_be_played():
    timeline = Timeline.read(ROOT / "examples" / "timeline.txt")
    assert timeline.plan(CLOCK).num_chunks > 0
