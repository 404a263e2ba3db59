"""The watcher: each warning fires on what it is for, once, and stays silent on healthy runs."""

import math
import random
from collections.abc import Iterable, Mapping

import pytest

from afstream.errors import TrainingError
from afstream.training.trainer.health import Health, WatchConfig

CONFIG = WatchConfig(
    critic_low=0.2,
    critic_high=5.0,
    explosion=10.0,
    motion_low=0.4,
    recent=15,
    history=200,
    warm_up=30,
    skips_in_row=3,
    skips_in_all=5,
)


def healthy(count: int, *, seed: int = 0) -> Iterable[dict[str, float]]:
    """What a run tells that goes well: noisy losses that sink, a student every fifth step."""
    draw = random.Random(seed)
    for step in range(count):
        sinking = 0.5 ** (step / 1000)
        # the critic's loss depends on the timestep drawn
        told = {
            "critic": sinking * draw.uniform(0.05, 2.0),
            "critic_norm": draw.lognormvariate(0, 0.7),
            "motion": 0.5 * draw.lognormvariate(0, 0.3),
        }
        if step % 5 == 4:
            told |= {
                "student": draw.uniform(0.01, 0.2),
                "norm": draw.lognormvariate(0, 0.7),
                "dmd_grad": draw.uniform(0.1, 0.3),
            }
        yield told


def watch(health: Health, series: Iterable[Mapping[str, float]], *, first: int = 1) -> list[str]:
    return [text for step, told in enumerate(series, first) for text in health.see(step, told)]


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_is_silent(seed: int):
    assert watch(Health(CONFIG), healthy(2000, seed=seed)) == []


@pytest.mark.parametrize(
    ("name", "factor", "words"),
    [
        ("critic", 0.02, "critic's loss is"),
        ("critic", 30.0, "critic's loss is"),
        ("norm", 50.0, "gradient's norm is"),
        ("dmd_grad", 50.0, "the DMD gradient is"),
        ("motion", 0.1, "motion is"),
    ],
)
def test_each_failure_is_told_once_until_it_is_gone(name: str, factor: float, words: str):
    series = list(healthy(2000))
    ill = [told | ({name: told[name] * factor} if name in told else {}) for told in series]
    health = Health(CONFIG)
    assert watch(health, series[:600]) == []
    told = watch(health, ill[600:1200], first=601)
    assert len(told) == 1, told
    assert words in told[0]
    # soon after it began, and not before
    assert 600 < int(told[0].split()[1].rstrip(":")) <= 600 + 20 * 5
    assert watch(health, series[1200:1600], first=1201) == []
    assert len(watch(health, ill[1600:2000], first=1601)) == 1


def test_one_step_out_of_line_is_nothing():
    series = [
        told | ({"norm": 1e6} if step == 500 else {}) for step, told in enumerate(healthy(900))
    ]
    assert watch(Health(CONFIG), series) == []


def test_nothing_is_judged_before_there_is_a_past():
    series = list(healthy(40))
    wild = [told | {"critic": 10.0**step} for step, told in enumerate(series)]
    assert watch(Health(CONFIG), wild) == []


def test_skipped_steps_are_told_counted_and_end_the_run():
    health = Health(CONFIG)
    bad = {"critic": math.nan, "critic_norm": math.inf}
    [text] = health.see(1, bad)
    assert text.startswith("step 1: critic, critic_norm came out without numbers")
    assert health.see(2, bad) == []
    assert health.skipped == 2
    with pytest.raises(TrainingError, match="3 in a row, came out without numbers"):
        health.see(3, bad)


def test_steps_between_break_the_row_but_not_the_sum():
    health = Health(CONFIG)
    for step in range(1, 9, 2):
        assert len(health.see(step, {"critic": math.nan})) == 1
        assert health.see(step + 1, {"critic": 1.0}) == []
    with pytest.raises(TrainingError, match=r"5 in all.*--resume"):
        health.see(9, {"critic": math.nan})


def test_numbers_that_are_lost_do_not_count_as_the_past():
    health = Health(CONFIG)
    series = list(healthy(600))
    for step in (200, 300):
        series[step] = dict.fromkeys(series[step], math.nan)
    assert len(watch(health, series)) == 2
