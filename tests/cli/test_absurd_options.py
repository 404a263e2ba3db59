"""Options with values that mean nothing: a sentence, whatever was given."""

import os
from pathlib import Path

import pytest
from tests.cli.warm import Case, run_warm

LONG = "9" * 5000
DRY = ["generate", "-p", "t.txt", "--dry-run"]
MAKE = ["generate", "-p", "t.txt", "--out", "o.mp4", "-q"]
LINES = ["generate", "-p", "p.jsonl", "--dry-run", "--switch-frames"]
BENCH = ["bench", "--duration", "1s"]
OPTIONS: dict[str, list[str]] = {
    **{f"--{name}": [*MAKE, "--device", name] for name in ("meta", "mps", "xla", "cuda:99", "")},
    **{f"{name}s": [*MAKE, "--dtype", name] for name in ("int8", "__class__")},
    "a seed below 0": [*DRY, "--seed", "-1"],
    "a long seed": [*DRY, "--seed", LONG],
    "a large seed": [*DRY, "--seed", str(2**70)],
    "a large seed of bench": [*BENCH, "--seed", str(2**70)],
    "no size": [*MAKE, "--size", "0x0"],
    "a long size": [*DRY, "--size", f"{LONG}x{LONG}"],
    "no length": [*DRY, "--duration", "0s"],
    "a long length": [*DRY, "--duration", LONG],
    "digits of another script": [*DRY, "--duration", "٣s"],
    "no amount": [*DRY, "--gpu-memory", ""],
    "an endless amount": [*DRY, "--gpu-memory", f"{LONG}GiB"],
    "an endless amount to inspect": ["inspect", "--gpu-memory", f"{LONG}GiB", "."],
    "many layers below 0": [*DRY, "--offload", "-3"],
    "endless frames": [*LINES, LONG],
    "frames of another script": [*LINES, "٣"],
    "raised frames": [*LINES, "²"],
    "no frames": [*LINES, ","],
    "too many threads": [*BENCH, "--threads", str(2**31)],
    "endless threads": [*BENCH, "--threads", LONG],
    "too many threads to train": ["distill", "--threads", str(2**31), "--dry-run"],
    "no prompts": ["generate", "--dry-run", "-p", ""],
    "prompts in a folder": ["generate", "--dry-run", "-p", "."],
    "a record in place of the states": [*MAKE, "--record", "o.state"],
    "a backend": [*MAKE, "--backend", "x"],
    "a steering size": [*DRY, "--size", "\x1b]0;x\x07"],
}
pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks")


def test_absurd_values_are_refused(tmp_path: Path):
    (tmp_path / "t.txt").write_text("@duration 0:01\n0:00 A red ball bounces.\n")
    (tmp_path / "p.jsonl").write_text('{"prompts": ["A red ball bounces.", "It spins."]}\n')
    cases = [Case(arguments=arguments) for arguments in OPTIONS.values()]
    wrong = {
        name: done
        for name, done in zip(OPTIONS, run_warm(tmp_path, cases, fake=False), strict=True)
        # Typer frames what it refuses itself.
        if done.code != 2
        or "\x1b" in done.err
        or (len(done.err.splitlines()) != 1 and "Usage" not in done.err)
    }
    assert not wrong
