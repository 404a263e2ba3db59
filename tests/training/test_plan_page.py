"""The plan of the 1.3B run: what it counts agrees with counting by hand, on small models."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engine.toy import SIZES

from afstream.training.recipes.reading import load_recipe

ROOT = Path(__file__).parents[2]
SMALL = replace(SIZES, num_layers=5)
TOKENS = 21 * 6 * 10


@pytest.fixture(scope="module")
def plan():
    spec = importlib.util.spec_from_file_location("plan", ROOT / "benchmarks" / "distill_plan.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their own module up by name
    sys.modules["plan"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["plan"]


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("wan-1.3b", ["sizes.width_px=160", "sizes.height_px=96"])


def clip_flops() -> int:
    """Matrix products of one call on a window, by hand."""
    dim, ffn, text = SMALL.dim, SMALL.ffn_dim, SMALL.text_len
    attention = 4 * TOKENS * (TOKENS + text) * dim
    layer = 2 * TOKENS * (6 * dim**2 + 2 * dim * ffn) + 2 * text * 2 * dim**2 + attention
    ends = 2 * TOKENS * dim * (16 + 16) * 4
    texts = 2 * text * (SMALL.text_dim * dim + dim**2)
    times = 2 * (SMALL.freq_dim * dim + dim**2 + 6 * dim**2)
    return SMALL.num_layers * layer + ends + texts + times


def test_a_call_is_counted_as_by_hand(plan, recipe):
    found = plan.clip_passes(recipe, SMALL, 0, learns=False)
    assert found == (clip_flops(), 2, 0)


def test_learning_costs_four_calls_at_most(plan, recipe):
    # forward, once more for the backward pass, and twice as much in it
    found = plan.clip_passes(recipe, SMALL, 0, learns=True)
    assert 3.8 < found.flops / clip_flops() < 4
    assert found[1:] == (2, 2)


def test_one_gpu_receives_nothing_and_many_all_but_their_share(plan, recipe):
    passes = plan.Passes(0, 1, 0)
    work = plan.Work(student=passes, critic=plan.Passes(), teacher=plan.Passes())
    assert plan.received_bytes(recipe, work, 0, 1, 1) == 0
    weights = sum(
        weight.numel()
        for weight in plan.make(plan.WAN_BACKBONES["wan-1.3b"], 0, learns=True).parameters()
    )
    assert plan.received_bytes(recipe, work, 0, 8, 1) == weights * 2 * 7 / 8


def test_the_page_holds_what_the_script_wrote():
    text = (ROOT / "docs" / "distill_plan.md").read_text()
    assert text.count("<!-- plan: begin -->") == text.count("<!-- plan: end -->") == 1
    inside = text.partition("<!-- plan: begin -->")[2].partition("<!-- plan: end -->")[0]
    assert sum(line.startswith(("| short", "| long")) for line in inside.splitlines()) == 8
