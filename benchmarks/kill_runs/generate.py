"""Kill `afstream generate` at random moments, resume it, and compare with a film left alone.

Each trial: a run in a process of its own is killed (SIGKILL) at a random moment, and again while it
is resumed, until it comes to its end. The film must be the same bytes as one that was made in one
go, and each chunk that a killed run told of must have been in the file.

    python benchmarks/kill_runs/generate.py --kills 1000 --json results.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

# imported before the forks, so that each begins warm
import torch

import afstream.stream  # noqa: F401  # pyright: ignore[reportUnusedImport]
from afstream.film import states
from afstream.film.found import FoundFilm
from afstream_cli import making  # noqa: F401  # pyright: ignore[reportUnusedImport]
from afstream_cli.app import main as run_afstream

TIMELINE = """@seed 5
@duration {seconds}s
0:00      A red star drifts left over the meadow.
0:02 blend=1s  The red star spins at night.
0:05 cut  A white ball bounces by the sea.
0:11      The white ball turns blue.
0:15 cut seed=7  A green heart circles in the snow.
0:20      A green heart rests at sunset.
"""
SECONDS = 24
# seconds between two saved states at least, so that these short films have some, too
STATES_EVERY_S = 0.2
SUFFIXES = (".mp4", "", ".mkv")


@dataclass(slots=True)
class Counts:
    """What the trials came to."""

    kills: int = 0
    before_a_frame: int = 0
    films: int = 0
    chunks_told: int = 0
    chunks_lost: int = 0
    films_that_differ: int = 0
    failures: list[str] = field(default_factory=list[str])


def run_command(arguments: Sequence[str], out: Path) -> None:
    """Run one command in this process, which was forked for it, and leave the process."""
    os.setsid()
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    with out.with_suffix(".err").open("wb") as errors:
        os.dup2(errors.fileno(), 2)
    # the parent's streams are forked with it, and may hold unwritten text
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    code = 1
    try:
        run_afstream(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def started(arguments: Sequence[str], out: Path) -> ForkProcess:
    """Start a command in a fork of this process, in which everything is imported already."""
    process = get_context("fork").Process(target=run_command, args=(arguments, out), daemon=True)
    process.start()
    return process


def told_chunks(out: Path) -> list[int]:
    """The chunks that a run has told to be written, by its whole lines of JSON."""
    lines = out.read_text().split("\n")[:-1] if out.exists() else []
    return [json.loads(line)["chunk"] for line in lines]


def digest(video: Path) -> str:
    """SHA-256 of a video, or of a folder of pictures."""
    found = hashlib.sha256()
    for path in sorted(video.iterdir()) if video.is_dir() else [video]:
        found.update(path.name.encode() if video.is_dir() else b"")
        found.update(path.read_bytes())
    return found.hexdigest()


def try_film(folder: Path, suffix: str, goal: str, rng: random.Random, counts: Counts) -> None:
    """Make one film, killed again and again, and compare it."""
    video, out = folder / f"film{suffix}", folder / "told.jsonl"
    prompts = str(folder.parent / "timeline.txt")
    begin = ["generate", "--prompts", prompts, "--out", str(video), "--json"]
    arguments, known = begin, 0
    while True:
        out.unlink(missing_ok=True)
        process = started(arguments, out)
        # most kills shall fall into the making, some into opening and ending
        wait_s = rng.uniform(0.0, 0.8)
        if rng.random() < 0.8:  # noqa: PLR2004  four of five
            until = time.monotonic() + 60
            while not told_chunks(out) and process.is_alive() and time.monotonic() < until:
                time.sleep(0.002)
        process.join(wait_s)
        ended = not process.is_alive()
        if not ended and process.pid:
            os.kill(process.pid, signal.SIGKILL)
            counts.kills += 1
        process.join()
        told = told_chunks(out)
        known = max([known, *(chunk + 1 for chunk in told)])
        counts.chunks_told += len(told)
        if ended:
            if process.exitcode:
                errors = out.with_suffix(".err").read_text().strip()
                counts.failures.append(f"{suffix}: exit {process.exitcode}: {errors[:300]}")
            break
        record = folder / "film.json"
        if not record.exists():
            counts.before_a_frame += 1
            continue
        found = FoundFilm.find(video)
        counts.chunks_lost += max(0, known - found.whole_chunks)
        if found.record.state == "finished":
            # killed on its way out
            break
        arguments = ["resume", str(video), "--json"]
    counts.films += 1
    if not video.exists() or digest(video) != goal:
        counts.films_that_differ += 1


def make_trials(kills: int, *, seed: int, report: bool = False) -> Counts:
    """Run trials until there were so many kills.

    Args:
        kills: how many.
        seed: of the random moments.
        report: print the counts after each film.
    """
    torch.set_num_threads(1)
    states.EVERY_S = STATES_EVERY_S
    rng, counts = random.Random(seed), Counts()
    with tempfile.TemporaryDirectory() as made:
        base = Path(made)
        (base / "timeline.txt").write_text(TIMELINE.format(seconds=SECONDS))
        goals: dict[str, str] = {}
        for suffix in SUFFIXES:
            video = base / f"whole{suffix}" / f"film{suffix}"
            prompts = str(base / "timeline.txt")
            begin = ["generate", "--prompts", prompts, "--out", str(video), "--json"]
            started(begin, base / "whole.jsonl").join()
            goals[suffix] = digest(video)
        while counts.kills < kills:
            suffix = SUFFIXES[counts.films % len(SUFFIXES)]
            folder = base / "trial"
            folder.mkdir()
            try_film(folder, suffix, goals[suffix], rng, counts)
            shutil.rmtree(folder)
            if report:
                print(json.dumps(asdict(counts)), flush=True)
    return counts


def main() -> None:
    """Run the trials and print what they came to."""
    parser = argparse.ArgumentParser(description="Kill generate and resume it.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the counts")
    given = parser.parse_args()
    counts = asdict(make_trials(given.kills, seed=given.seed, report=True))
    text = json.dumps(counts, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    sys.exit(bool(counts["chunks_lost"] or counts["films_that_differ"] or counts["failures"]))


if __name__ == "__main__":
    main()
