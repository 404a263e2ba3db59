"""`afstream distill`, killed again and again, ends with what it ends with when nobody kills it."""

import random

from kill_runs.distill import differing, run_killed

# benchmarks/kill_runs/distill.py --kills N does the same with as many as you like
KILLS = 10


def test_a_run_killed_again_and_again_ends_like_one_that_was_not(tmp_path):
    chosen = random.Random(11)
    assert run_killed(tmp_path / "whole", chosen, 0) == 0
    killed = run_killed(tmp_path / "killed", chosen, KILLS)
    assert killed >= KILLS // 2
    assert differing(tmp_path / "killed", tmp_path / "whole") == []
