"""How long a model takes to load as it is downloaded, and converted.

    python benchmarks/load_time.py
    python benchmarks/load_time.py --layers 30 --device cuda

Makes folders of random weights under a temporary folder: a backbone of Wan2.1-1.3B's width in
float32 and the original layout, and the same converted to bfloat16, and to float32. Each is loaded
several times in bfloat16, in turn. Before a cold run the system is asked to forget the files, as
far as it does without rights of an administrator; a warm run finds them in its page cache. Text
encoder and VAE are the small ones of the tests, so it is the backbone that is timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from afstream.config import WAN_BACKBONES
from afstream.errors import AfstreamError
from afstream.families.opening import open_model
from afstream.families.wan.convert import prepare
from afstream.spec import ModelSpec

DTYPE = "bfloat16"
MB = 1e6


def make(root: Path, layers: int) -> dict[str, Path]:
    """The folders to load, by what they are."""
    # the folder maker belongs to the tests, which are beside this folder
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.wan_folder import make_wan_folder  # noqa: PLC0415  found only now

    config = replace(WAN_BACKBONES["wan-1.3b"], num_layers=layers, text_dim=64)
    folders = {"original, float32": make_wan_folder(root / "a", layout="original", config=config)}
    for dtype in (DTYPE, "float32"):
        out = root / dtype
        prepare(ModelSpec(name=str(root / "a"), dtype=dtype)).write(out)
        folders[f"converted, {dtype}"] = out
    return folders


def forget(folder: Path) -> None:
    """Ask the system to drop a folder's files from its page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load_s(folder: Path, device: str) -> float:
    """Seconds until a model is ready."""
    began = time.perf_counter()
    model = open_model(ModelSpec(name=str(folder), device=device, dtype=DTYPE))
    if model.backbone.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(folders: dict[str, Path], device: str, runs: int) -> list[tuple[str, str, float]]:
    """Medians in seconds, cold and warm, by folder; the folders take turns."""
    # imports and the first call of each library are not loading
    load_s(next(iter(folders.values())), device)
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        for name, folder in folders.items():
            forget(folder)
            for state in ("cold", "warm"):
                found.setdefault((state, name), []).append(load_s(folder, device))
    return [(*key, statistics.median(values)) for key, values in found.items()]


def size_mb(folder: Path) -> float:
    """Of all its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MB


def show(rows: Sequence[tuple[str, str, float]], folders: dict[str, Path]) -> None:
    """A Markdown table; the ratio is to the original in the same state."""
    first = next(iter(folders))
    base = {state: seconds for state, name, seconds in rows if name == first}
    print("| folder | MB | page cache | seconds | times faster |")
    print("| --- | ---: | --- | ---: | ---: |")
    for state, name, seconds in sorted(rows, key=lambda row: row[0]):
        ratio = base[state] / seconds
        print(f"| {name} | {size_mb(folders[name]):.0f} | {state} | {seconds:.3f} | {ratio:.2f} |")


def main() -> int:
    """Make, load, show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--layers", type=int, default=4, help="185 MB each in float32")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as root:
            folders = make(Path(root), given.layers)
            show(measure(folders, given.device, given.runs), folders)
    except (AfstreamError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
