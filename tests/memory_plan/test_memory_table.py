"""The table of the docs: made by the script, between two marks."""

import itertools
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import memory_table

    yield memory_table
    del sys.modules["memory_table"]


def test_the_table_goes_between_its_marks(script):
    page = f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n"
    once = script.replaced(page, "| new |")
    assert once == f"before\n{script.BEGIN}\n\n| new |\n\n{script.END}\nafter\n"
    assert script.replaced(once, "| new |") == once
    for other in ("no marks\n", f"one {script.BEGIN} only\n"):
        assert script.replaced(other, "| new |") == other


def test_every_row_has_a_cell_for_every_heading(script, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(script, "MODELS", {"1.3B": "wan-1.3b"})
    rows = list(itertools.islice(script.rows(), 2))
    assert {len(row) for row in rows} == {len(script.HEADINGS)}
    assert rows[0] != rows[1]
