"""Plans the 1.3B run on 1, 8 and 64 GPUs: counts bytes and FLOPs, and writes them into the docs.

    python benchmarks/distill_plan.py            # renews docs/distill_plan.md
    python benchmarks/distill_plan.py --check    # fails if the page is out of date

Nothing is computed and no weight is allocated: the training code itself runs on tensors without
storage, and torch's counter adds up what its matrix products would cost. Layers are alike, so one
and two of them are counted, and the rest follows.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from afstream.config import WAN_BACKBONES, BackboneConfig, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.model.dit import Backbone, TextContext, TimeContext
from afstream.model.layers import AttentionWindow
from afstream.training.dmd.bidirectional import ClipWindow
from afstream.training.dmd.sequences import LongSequence, replay
from afstream.training.machinery.adapters import adapt
from afstream.training.machinery.optim import trained
from afstream.training.recipes.reading import load_recipe
from afstream.training.recipes.tables import MatchingTable, WanRecipe
from afstream.training.runs import preflight
from afstream.training.runs.wan_stages import footing, wan_grid

PAGE = Path(__file__).parents[1] / "docs" / "distill_plan.md"
BEGIN, END = "<!-- plan: begin -->", "<!-- plan: end -->"

# Assumptions: an H100 SXM at 40 % of its dense bfloat16 peak, and links of one direction.
PEAK_FLOPS = 989e12
USED_SHARE = 0.4
GPU_BYTES = 80e9
NVLINK = 450e9
INFINIBAND = 50e9
LINKS: dict[int, float | None] = {1: None, 8: NVLINK, 64: INFINIBAND}
# gathered weights are cast to this; gradients are summed in float32
GATHERED_BYTES = torch.bfloat16.itemsize
REDUCED_BYTES = torch.float32.itemsize

# of a long sequence: the first window, the one that a switch opens, and one of all others
COUNTED_WINDOWS = 3
HOUR_S = 3600
DAY_H = 24


class Passes(NamedTuple):
    """What one model does for one window: cost, and how often its weights are gathered.

    Attributes:
        flops: of matrix products.
        forward: passes over all layers; those of the text keys as well.
        backward: passes back through them, each of which ends in a sum over processes.
    """

    flops: float
    forward: float
    backward: float

    def plus(self, other: Passes, weight: float = 1.0) -> Passes:
        """Both, the other one so many times."""
        return Passes(*(own + weight * add for own, add in zip(self, other, strict=True)))


NOTHING = Passes(0, 0, 0)


class Counted(Backbone):
    """A backbone that counts the passes over its layers."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        self.passes: Counter[str] = Counter()

    def forward(
        self, latents: Tensor, time: TimeContext, text: TextContext, window: AttentionWindow
    ) -> Tensor:
        """See `Backbone.forward`."""
        self._count()
        return super().forward(latents, time, text, window)

    def remember(
        self, latents: Tensor, time: TimeContext, text: TextContext, window: AttentionWindow
    ) -> None:
        """See `Backbone.remember`."""
        self._count()
        super().remember(latents, time, text, window)

    def text_context(self, prompt_embeds: Tensor) -> TextContext:
        """See `Backbone.text_context`."""
        self._count()
        return super().text_context(prompt_embeds)

    def _count(self) -> None:
        self.passes["forward"] += 1
        self.passes["backward"] += torch.is_grad_enabled()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One iteration on one sequence, on average.

    Attributes:
        student: rollout, and every so often the replay.
        critic: its update, and every so often its say on the student.
        teacher: every so often, with and without the prompt.
    """

    student: Passes
    critic: Passes
    teacher: Passes


def meta(*shape: int) -> Tensor:
    """A tensor without storage."""
    return torch.empty(*shape, device=preflight.META)


def make(config: BackboneConfig, rank: int, *, learns: bool) -> Counted:
    """A backbone without storage, as it is trained."""
    with torch.device(preflight.META):
        backbone = Counted(config)
    backbone.requires_grad_(learns)
    if learns and rank:
        adapt(backbone, rank=rank, alpha=float(rank))
    if learns:
        backbone.recompute_layers()
    return backbone


def attention_flops(query: tuple[int, ...], key: tuple[int, ...], *_: object, **__: object) -> int:
    """Of torch's own attention behind an operator of ours, shapes [B, T, H, D] and [B, K, H, D]."""
    batch, tokens, heads, width = query
    return 4 * batch * tokens * key[1] * heads * width


@contextmanager
def counting(backbone: Counted, found: list[Passes]) -> Generator[None, None, None]:
    """Append what is done within."""
    backbone.passes.clear()
    hidden = {torch.ops.afstream.vendor_attention: attention_flops}
    counter = FlopCounterMode(display=False, custom_mapping=hidden)
    with counter:
        yield
    passes = backbone.passes
    found.append(Passes(counter.get_total_flops(), passes["forward"], passes["backward"]))


def all_layers(config: BackboneConfig, count: Callable[[BackboneConfig], list[Passes]]) -> Passes:
    """The sum of what `count` finds, for as many layers as there are, from one and two of them."""
    one, two = ([*count(replace(config, num_layers=layers))] for layers in (1, 2))
    total = NOTHING
    for few, more in zip(one, two, strict=True):
        flops = few.flops + (config.num_layers - 1) * (more.flops - few.flops)
        total = total.plus(more._replace(flops=flops))
    return total


def clip_passes(recipe: WanRecipe, config: BackboneConfig, rank: int, *, learns: bool) -> Passes:
    """One call of a bidirectional model on a window, with its backward pass where it learns."""
    geometry = recipe.sizes.geometry
    shape = (1, recipe.long.horizon_frames, config.in_dim)
    latents = meta(*shape, geometry.latent_height, geometry.latent_width)

    def count(sizes: BackboneConfig) -> list[Passes]:
        found: list[Passes] = []
        model = make(sizes, rank, learns=learns)
        with counting(model, found), torch.set_grad_enabled(learns):
            text = model.text_context(meta(1, sizes.text_len, sizes.text_dim))
            window = ClipWindow(sizes, latents, "reference")
            flow = model(latents, model.time_context(meta(1, 1)), text, window)
            if learns:
                flow.sum().backward()
        return found

    return all_layers(config, count)


def student_passes(
    recipe: WanRecipe, table: MatchingTable, config: BackboneConfig, rank: int
) -> Passes:
    """Rollout of a window and its share of a replay, means over a sequence and exit steps."""
    geometry, sampler = recipe.sizes.geometry, SamplerConfig()
    policy = memory_policy(table.memory, LENGTHS)
    size = (config.in_dim, geometry.latent_height, geometry.latent_width)
    num_windows = 1 + len(table.plan.boundaries)
    steps = len(sampler.steps)

    def run(sizes: BackboneConfig, exit_step: int) -> list[Passes]:
        windows: list[Passes] = []
        model = make(sizes, rank, learns=True)
        rollout = Rollout.of(model, policy, sampler, backend="reference", use_graphs=False)
        prompt = meta(1, sizes.text_len, sizes.text_dim)
        sequence = LongSequence(
            rollout,
            table.plan,
            (prompt, prompt),
            switch_frame=table.horizon_frames if table.switch else 0,
            shape=(1, policy.lengths.chunk_frames, *size),
        )
        for _ in range(min(COUNTED_WINDOWS, num_windows)):
            found: list[Passes] = []
            with counting(model, found):
                noise = meta(steps, 1, policy.lengths.chunk_frames, *size)
                window = sequence.advance(rollout, lambda _, x=noise: x, exit_step, keep=True)
            with counting(model, found):
                replay(rollout, window, torch.empty_like(window.latents))
            made, replayed = found
            windows.append(made.plus(replayed, 1 / table.critic_updates))
        # the last one counted stands for all that follow
        return windows + windows[-1:] * (num_windows - len(windows))

    # cost grows evenly with the exit step, which is drawn evenly
    first, last = (
        all_layers(config, lambda sizes, at=exit_step: run(sizes, at))
        for exit_step in (0, steps - 1)
    )
    return NOTHING.plus(first.plus(last), 1 / (2 * num_windows))


def iteration(recipe: WanRecipe, table: MatchingTable, rank: int) -> Work:
    """What one iteration does for one sequence."""
    student, teacher = WAN_BACKBONES[recipe.sizes.student], WAN_BACKBONES[recipe.sizes.teacher]
    share = 1 / table.critic_updates
    learned = clip_passes(recipe, student, rank, learns=True)
    asked = clip_passes(recipe, student, rank, learns=False)
    taught = clip_passes(recipe, teacher, 0, learns=False)
    return Work(
        student=student_passes(recipe, table, student, rank),
        critic=learned.plus(asked, share),
        teacher=NOTHING.plus(taught, 2 * share),
    )


def received_bytes(recipe: WanRecipe, work: Work, rank: int, gpus: int, parts: int) -> float:
    """What a rank receives in an iteration: gathered weights, and sums of gradients."""
    sizes = recipe.sizes
    small = make(WAN_BACKBONES[sizes.student], rank, learns=True)
    large = preflight.on_meta(WAN_BACKBONES[sizes.teacher])
    values = sum(weight.numel() for weight in small.parameters())
    learning = sum(weight.numel() for weight in trained(small).values())
    total = 0.0
    for passes in (work.student, work.critic):
        total += (passes.forward + passes.backward) * values * GATHERED_BYTES
        total += passes.backward * learning * REDUCED_BYTES
    teacher = sum(weight.numel() for weight in large.parameters())
    total += work.teacher.forward * teacher * GATHERED_BYTES
    return parts * total * (gpus - 1) / gpus


def memory_bytes(recipe: WanRecipe, table: MatchingTable, rank: int, gpus: int) -> tuple[int, int]:
    """Of a rank: all that does not grow with its sequences, and one sequence."""
    sizes = replace(recipe.sizes, processes=gpus, shard=gpus > 1)
    stored = footing(replace(recipe, sizes=sizes), rank=rank)
    student, teacher = WAN_BACKBONES[sizes.student], WAN_BACKBONES[sizes.teacher]
    policy, grid = memory_policy(table.memory, LENGTHS), wan_grid(recipe)
    per_row = sum(
        share.size_bytes
        for share in preflight.memory_shares(policy, student, grid, 1, stored.frozen)
    )
    shares = preflight.matching_shares(policy, student, teacher, grid, 1, stored)
    # the input of each layer, kept for the critic's backward pass, one sequence at a time
    tokens = table.horizon_frames * grid.tokens_per_frame
    inputs = student.num_layers * tokens * student.dim * GATHERED_BYTES
    return sum(share.size_bytes for share in shares) - per_row + inputs, per_row


def rows_of(
    recipe: WanRecipe, name: str, table: MatchingTable, rank: int, work: Work
) -> Iterator[list[str]]:
    """The table's rows of a stage."""
    flops = sum(part.flops for part in (work.student, work.critic, work.teacher))
    for gpus, link in LINKS.items():
        rows = table.batch // gpus
        fixed, per_row = memory_bytes(recipe, table, rank, gpus)
        fits = max(int((GPU_BYTES - fixed) // per_row), 0)
        compute_s = rows * flops / (PEAK_FLOPS * USED_SHARE)
        # as many parts as sequences: what memory is counted for
        received = received_bytes(recipe, work, rank, gpus, rows)
        sent_s = received / link if link else 0.0
        hours = table.iterations * (compute_s + sent_s) / HOUR_S
        yield [
            name,
            str(gpus),
            str(rows),
            f"{(fixed + rows * per_row) / 1e9:.0f} GB",
            f"{fits}" if fits < rows else "all",
            f"{rows * flops / 1e15:.1f}",
            f"{compute_s:.1f} s",
            f"{received / 1e9:.0f} GB" if link else "-",
            f"{sent_s:.1f} s" if link else "-",
            f"{hours:.0f} h" if hours < 2 * DAY_H else f"{hours / DAY_H:.1f} days",
        ]


def pages(recipe: WanRecipe) -> str:
    """What stands between the page's marks."""
    stages = [
        (name, table, rank, iteration(recipe, table, rank))
        for name, table, rank in (
            ("short", recipe.short, 0),
            ("long", recipe.long, recipe.lora.rank),
        )
    ]
    head = [
        "stage", "GPUs", "sequences a rank", "memory a rank", "fit in 80 GB", "PFLOP a rank",
        "compute", "received a rank", "links", "whole stage",
    ]  # fmt: skip
    lines = [_row(head), _row(["---"] * len(head))]
    lines += [_row(row) for stage in stages for row in rows_of(recipe, *stage)]
    lines += ["", "What one sequence costs in one iteration, in TFLOP:", ""]
    lines += [_row(["stage", "student", "critic", "teacher"]), _row(["---"] * 4)]
    for name, _, _, work in stages:
        parts = (work.student, work.critic, work.teacher)
        lines.append(_row([name, *(f"{part.flops / 1e12:.0f}" for part in parts)]))
    teacher = clip_passes(recipe, WAN_BACKBONES[recipe.sizes.teacher], 0, learns=False)
    pairs = recipe.pairs
    # Heun's method looks twice at each step but the last
    asked = 2 * pairs.steps - 1 if pairs.solver == "heun" else pairs.steps
    per_pair = 2 * asked * teacher.flops
    hours = pairs.pairs * per_pair / (PEAK_FLOPS * USED_SHARE) / HOUR_S
    grid = wan_grid(recipe)
    lines += [
        "",
        f"One call of the teacher on a window of {recipe.long.horizon_frames} latent frames"
        f" ({recipe.long.horizon_frames * grid.tokens_per_frame:,} tokens) is"
        f" {teacher.flops / 1e15:.2f} PFLOP. The stage `ode` begins with {pairs.pairs:,} of its"
        f" trajectories of {pairs.steps} steps ({pairs.solver}), with and without the prompt:"
        f" {per_pair / 1e15:.0f} PFLOP each, {hours:,.0f} GPU hours in all.",
    ]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Renew the page, or tell whether it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args()
    recipe = load_recipe("wan-1.3b")
    if not isinstance(recipe, WanRecipe):
        raise TypeError(recipe)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    renewed = f"{before}{BEGIN}\n\n{pages(recipe)}\n\n{END}{after}"
    if asked.check:
        return int(renewed != text)
    PAGE.write_text(renewed, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
