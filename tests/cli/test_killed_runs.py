"""Runs of `afstream generate` that are really killed, at random moments, and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_runs" / "generate.py"
KILLS = 20


def test_killed_films_lose_nothing_and_end_as_if_nobody_had_killed_them(tmp_path: Path):
    result = tmp_path / "counts.json"
    # a process of its own: it forks, and pytest has threads
    subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", str(KILLS), "--json", str(result)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    counts = json.loads(result.read_text())
    assert counts["kills"] >= KILLS
    assert counts["films"] > 0
    assert counts["chunks_told"] > KILLS
    assert counts["chunks_lost"] == 0
    assert counts["films_that_differ"] == 0
    assert counts["failures"] == []
