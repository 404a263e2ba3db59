"""Kill `afstream distill` at random moments, resume it each time, and compare what it ends with.

    python benchmarks/kill_runs/distill.py --kills 1000

The run has all stages of the pocket recipe on a small model, with a checkpoint after each step.
Each kill is a SIGKILL of the real command, which runs in a copy of a process that has loaded torch
already. Everything that a run ends with must be bit for bit what a run ends with that nobody
killed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from afstream.config import BackboneConfig
from afstream.training.runs import pocket_context
from afstream_cli import app

RECIPE = (
    "vae.steps=2",
    "vae.batch=1",
    "vae.window_frames=5",
    "vae.statistics_clips=1",
    "clips.firsts=2",
    "clips.clips=1",
    "clips.frames=6",
    "clips.switch_frames=[3]",
    "clips.windows=1",
    "clips.window_frames=6",
    "clips.window_switch_frames=[0]",
    "student.steps=4",
    "student.first_steps=1",
    "student.own_from=2",
    "student.first_batch=1",
    "student.side_batch=1",
    "student.clip_batch=1",
    "teacher.steps=4",
    "teacher.batch=1",
    "short.iterations=4",
    "short.critic_updates=2",
    "short.batch=1",
    "short.horizon_frames=6",
    "short.max_frames=6",
    "long.iterations=4",
    "long.critic_updates=1",
    "long.batch=1",
    "long.horizon_frames=6",
    "long.max_frames=9",
    "retention.steps=4",
    "retention.batch=1",
    "retention.whole_batch=1",
    "log.report_every=1",
    "log.save_every=1",
    "sheet.every=0",
)
PRELOADED = [
    "afstream_cli.app",
    "afstream_cli.progress",
    "afstream_cli.training",
    "afstream.training.recipes.reading",
    "afstream.training.runs.opening",
    "rich.progress",
    # optimizers load it late
    "torch._dynamo",
]
# a kill comes after so many more steps or files, and then anywhere within so many seconds
MORE, WITHIN_S = 3, 0.25
LONGEST_S = 300


def distill(folder: Path, told: Path) -> None:
    """The command, in a process of its own; what it says goes to a file."""
    handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    torch.set_num_threads(1)
    sizes = {"dim": 32, "ffn_dim": 32, "freq_dim": 32, "num_heads": 2, "num_layers": 1}
    pocket_context.POCKET_BACKBONE = BackboneConfig(text_dim=96, text_len=24, patch=2, **sizes)
    settings = [part for setting in RECIPE for part in ("--set", setting)]
    app.main(["distill", "--recipe", "pocket-quick", "--out", str(folder), "--resume", *settings])


def progress(folder: Path) -> int:
    """Steps that are saved, of all stages, and files that are made."""
    newest: dict[Path, int] = {}
    for path in folder.glob("*/step-*"):
        if path.suffix != ".partial":
            step = int(path.name.removeprefix("step-"))
            newest[path.parent] = max(step, newest.get(path.parent, 0))
    return sum(newest.values()) + len(list(folder.glob("*.safetensors")))


def run_killed(folder: Path, chosen: random.Random, kills: int) -> int:
    """Run to the end, killed up to so many times on the way; how often it was.

    Raises:
        RuntimeError: it ended in another way than by a kill or well.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    told = folder.with_suffix(".told")
    for attempt in range(kills + 1):
        process = context.Process(target=distill, args=(folder, told))
        process.start()
        if attempt < kills:
            goal = progress(folder) + chosen.randint(0, MORE)
            while process.is_alive() and progress(folder) < goal:
                time.sleep(0.002)
            time.sleep(chosen.uniform(0, WITHIN_S))
            process.kill()
        process.join(LONGEST_S)
        if process.exitcode == 0:
            return attempt
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"exit code {process.exitcode}: {told.read_text()[-2000:]}")
    raise RuntimeError(f"it did not end within {LONGEST_S} s: {told.read_text()[-2000:]}")


def differing(folder: Path, whole: Path) -> list[str]:
    """Names of files with another content than those of a run that nobody killed."""
    kinds = ("*.safetensors", "*/log.jsonl", "*.partial", "*/*.partial")
    names = {
        str(path.relative_to(each))
        for each in (folder, whole)
        for kind in kinds
        for path in each.glob(kind)
    }
    return [name for name in sorted(names) if content(folder / name) != content(whole / name)]


def content(path: Path) -> object:
    """What a file holds; of a log all but the seconds, which differ from run to run."""
    if not path.exists():
        return None
    if path.suffix != ".jsonl":
        return path.read_bytes()
    return [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]


def main() -> int:
    """Kill runs until there were enough kills; 1 if one of them ended in another way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chosen = random.Random(given.seed)
    done, bad, began = 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary, "whole")
        run_killed(whole, chosen, 0)
        number = 0
        while done < given.kills:
            folder = Path(temporary, f"run{number}")
            number += 1
            done += run_killed(folder, chosen, min(given.kills - done, 25))
            if names := differing(folder, whole):
                bad += 1
                print(f"{folder} differs: {', '.join(names)}")
            seconds = time.monotonic() - began
            print(f"{done} kills, {number} runs, {bad} of them differ, {seconds:.0f} s", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
