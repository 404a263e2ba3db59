"""How fast a stream is on a CPU: against the public way, and the pocket model end to end.

    python benchmarks/cpu_path.py
    python benchmarks/cpu_path.py --threads 2 --rounds 20

Writes `benchmarks/results/cpu_path.json` and the last section of `docs/performance.md`. All ways
run in turn in one process, on the same weights and latents; milliseconds are of the processor
(summed over threads), so that other work on the machine counts little. Only the ratios hold for
other machines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afstream import Stream
from afstream.bench.load import PROMPTS
from afstream.bench.machine import Machine
from afstream.config import BackboneConfig, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.engine.state import RolloutState
from afstream.families.random.model import random_backbone
from afstream.families.wan.family import WAN
from afstream.kvcache.memories import memory_policy
from afstream.kvcache.policy import Anchors
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec
from cpu_stages.page import with_section
from cpu_stages.public_way import PublicCall, forward

RESULT = Path(__file__).with_name("results") / "cpu_path.json"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
POLICY = memory_policy("anchor", WAN.lengths)
CHUNK = WAN.lengths.chunk_frames
# every slot is in use by then, and the junction can be seen
STEADY_CHUNKS = 24
SWITCH_CHUNK = 6
# rows and columns of tokens in a latent frame: 312 and 48 tokens in a chunk
GRIDS = {"312 tokens": (8, 13), "48 tokens": (4, 4)}
SIZES = BackboneConfig(
    dim=384,
    ffn_dim=1536,
    freq_dim=128,
    text_dim=96,
    text_len=24,
    num_heads=6,
    num_layers=6,
    patch=2,
)
STEPS = SamplerConfig().steps


def steady(backbone: Backbone, grid: tuple[int, int]) -> tuple[Rollout, RolloutState]:
    """A rollout whose window is full and whose junction is in sight."""
    rollout = Rollout.of(backbone, POLICY, SamplerConfig())
    shape = (1, CHUNK, SIZES.in_dim, grid[0] * SIZES.patch, grid[1] * SIZES.patch)
    state = rollout.start(backbone.text_context(prompt(0)), shape)
    for chunk in range(STEADY_CHUNKS):
        if chunk == SWITCH_CHUNK:
            rollout.switch(state, backbone.text_context(prompt(1)))
        rollout.commit(state, torch.randn(shape))
    return rollout, state


def prompt(seed: int) -> Tensor:
    """Embeddings of a prompt."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, SIZES.text_len, SIZES.text_dim, generator=generator)


def ways(backbone: Backbone, grid: tuple[int, int], name: str) -> dict[str, Callable[[], object]]:
    """Ours and the public way: one chunk (denoise steps and context pass), and one switch."""
    rollout, state = steady(backbone, grid)
    noise = torch.randn(len(STEPS), *state.shape)
    frame = STEADY_CHUNKS * CHUNK

    def chunk() -> None:
        rollout.commit(state, rollout.denoise(state, noise))

    def switch() -> None:
        rollout.switch(state, backbone.text_context(prompt(2)))

    # what the same chunk and the same re-cache see
    anchors = Anchors(junction=SWITCH_CHUNK * CHUNK)
    seen = POLICY.visible(anchors, frame, CHUNK)
    cached = tuple(at.position for at in seen if at.frame != frame)
    sizes = (CHUNK, *grid)
    call = PublicCall.of(backbone, cached, (POLICY.query_position(frame, CHUNK),), sizes)
    recache = POLICY.switch(Anchors(junction=SWITCH_CHUNK * CHUNK), frame)
    if recache is None:
        raise RuntimeError("the memory recomputes nothing at a switch")
    block = range(recache.frame, recache.frame + recache.num_frames, CHUNK)
    around = POLICY.visible(anchors, recache.frame, recache.num_frames)
    first = POLICY.query_position(recache.frame, recache.num_frames)
    again = PublicCall.of(
        backbone,
        tuple(at.position for at in around if at.frame not in block),
        tuple(first + at - recache.frame for at in block),
        sizes,
    )
    text, latents = state.text, torch.randn(state.shape)
    window = torch.cat([latents] * len(block), dim=1)

    def public_chunk() -> None:
        for step in (*rollout.schedule.timesteps, 0.0):
            forward(backbone, latents, step, text, call)

    def public_switch() -> None:
        forward(backbone, window, 0.0, backbone.text_context(prompt(2)), again)

    return {
        f"{name}, chunk": chunk,
        f"{name}, switch": switch,
        "public way, chunk": public_chunk,
        "public way, switch": public_switch,
    }


def in_turn(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of the processor of each, after one round that is not counted."""
    spans: dict[str, list[float]] = {name: [] for name in works}
    for counted in range(rounds + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            if counted:
                spans[name].append(1000 * (time.process_time() - began))
    return {name: round(statistics.median(times), 2) for name, times in spans.items()}


@torch.inference_mode()
def against_public(grid: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Ours in float32, with packed weights, and in bfloat16, beside the public way in float32."""
    with torch.inference_mode(mode=False):
        plain, packed = (random_backbone(SIZES, device="cpu", dtype=torch.float32) for _ in "12")
        packed.pack_weights()
        halves = random_backbone(SIZES, device="cpu", dtype=torch.bfloat16)
        halves.pack_weights()
    works = ways(plain, grid, "float32")
    works |= {
        name: work
        for backbone, kind in ((packed, "float32, packed"), (halves, "bfloat16, packed"))
        for name, work in ways(backbone, grid, kind).items()
        if not name.startswith("public")
    }
    spans = in_turn(works, rounds)
    ratios = {
        name: round(spans[f"public way, {name.rsplit(', ', 1)[1]}"] / span, 3)
        for name, span in spans.items()
    }
    return {"cpu_ms": spans, "public_to_this": ratios}


def pocket(chunks: int, *, packed: bool) -> dict[str, float]:
    """The embedded model end to end without a writer: times real time, by wall clock and CPU."""
    with Stream.open(ModelSpec(name="pocket", device="cpu")) as stream:
        if packed and isinstance(stream.model.backbone, Backbone):
            stream.model.backbone.pack_weights()
        stream.cue(PROMPTS[0])
        running = stream.chunks()
        for _ in range(2 * SWITCH_CHUNK):
            next(running)
        wall, cpu, frames = time.perf_counter(), time.process_time(), 0
        for _ in range(chunks):
            frames += len(next(running).frames)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        seconds = frames / stream.fps
    return {
        "times_real_time_wall": round(seconds / wall, 2),
        "times_real_time_cpu": round(seconds / cpu, 2),
        "cpu_ms_of_a_chunk": round(1000 * cpu / chunks, 2),
    }


def main() -> None:
    """Measure, or only write the page again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--chunks", type=int, default=40, help="of the pocket stream")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    given = parser.parse_args()
    if not given.page_only:
        torch.set_num_threads(given.threads)
        result = measure(given.rounds, given.chunks)
        given.out.write_text(json.dumps(result, indent=2) + "\n")
    text = given.out.read_text()
    given.page.write_text(with_section(given.page.read_text(), json.loads(text)))
    print(text)


def measure(rounds: int, chunks: int) -> dict[str, Any]:
    """All that the script measures, as plain data."""
    return {
        "machine": asdict(Machine.here(torch.device("cpu"))),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "sizes": {"dim": SIZES.dim, "ffn_dim": SIZES.ffn_dim, "layers": SIZES.num_layers},
        **{name: against_public(grid, rounds) for name, grid in GRIDS.items()},
        "pocket": pocket(chunks, packed=False),
        "pocket, packed": pocket(chunks, packed=True),
    }


if __name__ == "__main__":
    main()
