"""Motions read from tracks that are drawn by hand."""

import numpy as np
import pytest
from afstream.evaluate.gait import Track, motion

FRAMES, PERIOD = 144, 48


def shuttle(share: float, *, along: str, back: bool = False) -> Track:
    """A subject that goes one way for a share of each period, and returns in the rest of it."""
    phase = np.arange(FRAMES) % PERIOD / PERIOD
    path = np.where(phase < share, phase / share, (1 - phase) / (1 - share))
    path = (30 * (-path if back else path)).astype(np.float32)
    still = np.zeros(FRAMES, np.float32)
    x, y = (path, still) if along == "x" else (still, path)
    return Track(x=x, y=y, scale=still + 1, angle=still, symmetry=2 * np.pi)


@pytest.mark.parametrize(
    ("along", "back", "name"),
    [("x", False, "right"), ("x", True, "left"), ("y", False, "down"), ("y", True, "up")],
)
def test_who_takes_longer_to_go_than_to_come_glides(along, back, name):
    # real drifts glide two thirds of the time; what noise leaves of that is enough
    for share in (2 / 3, 0.61):
        assert motion(shuttle(share, along=along, back=back)) == name


def test_who_comes_as_he_goes_bounces():
    for share in (0.5, 0.55, 0.45):
        assert motion(shuttle(share, along="y")) == "bounces"
        assert motion(shuttle(share, along="x")) is None
