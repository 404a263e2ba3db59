"""Figures about a run of any length, in memory of fixed size."""

import pickle

import pytest

from afstream.film.tally import Spread


def test_figures_of_a_long_series():
    spread = Spread()
    for value in range(100_000):
        spread.add(float(value % 1000))
    summary = spread.summary()
    assert summary["count"] == 100_000
    assert summary["mean"] == 499.5
    assert summary["max"] == 999
    assert summary["p50"] == pytest.approx(500, abs=60)
    assert summary["p90"] == pytest.approx(900, abs=60)


def test_memory_does_not_grow():
    spread = Spread()
    sizes: list[int] = []
    for count in range(1, 100_001):
        spread.add(1.0)
        if count in (10_000, 100_000):
            sizes.append(len(pickle.dumps(spread)))
    assert max(sizes) < 12_000


def test_nothing_gives_no_figures():
    assert Spread().summary() == {}
