"""Plans the 1.3B run on 1, 8 and 64 GPUs: counts bytes and FLOPs, and writes them into the docs.

    python benchmarks/distill_plan.py            # renews docs/distill_plan.md
    python benchmarks/distill_plan.py --check    # fails if the page is out of date

Nothing is computed and no weight is allocated: the training code itself runs on the meta device,
and torch's counter adds up what its matrix products would cost. Layers are alike, so one and two
of them are counted, and the rest follows. Memory is what `afstream distill --dry-run` says.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from afstream.config import WAN_BACKBONES, BackboneConfig, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.memory_plan.count import META
from afstream.memory_plan.training import meta_backbone
from afstream.model.dit import Backbone
from afstream.training.dmd.bidirectional import predict_flow
from afstream.training.dmd.config import DmdConfig
from afstream.training.dmd.sequences import LongSequence, replay
from afstream.training.recipes.reading import load_recipe
from afstream.training.recipes.tables import WanRecipe
from afstream.training.runs.wan import dmd_memory
from afstream.training.trainer.lora import adapt
from afstream.training.trainer.optim import trained

PAGE = Path(__file__).parents[1] / "docs" / "distill_plan.md"
BEGIN, END = "<!-- plan: begin -->", "<!-- plan: end -->"

# Assumptions: an H100 SXM at 40 % of its dense bfloat16 peak, and links of one direction.
FLOPS_PER_S = 0.4 * 989e12
GPU_BYTES = 80e9
NVLINK, INFINIBAND = 450e9, 50e9
LINKS: dict[int, float | None] = {1: None, 8: NVLINK, 64: INFINIBAND}
# gathered weights are cast to this; gradients are summed in float32
GATHERED_BYTES = torch.bfloat16.itemsize
REDUCED_BYTES = torch.float32.itemsize

# of a long sequence: the first window, the one that a switch opens, and one of all others
COUNTED_WINDOWS = 3
# calls of a backbone that gather all of its layers
CALLS = ("forward", "write_kv", "text_context")
HEAD = (
    *("stage", "GPUs", "sequences a rank", "memory a rank", "fit in 80 GB", "PFLOP a rank"),
    *("compute", "received a rank", "links", "whole stage"),
)
HOUR_S = 3600
DAY_H = 24


class Passes(NamedTuple):
    """What one model does for one window.

    Attributes:
        flops: of matrix products.
        forward: passes over all layers; those of the text keys as well.
        backward: passes back through them, each of which ends in a sum over processes.
    """

    flops: float = 0
    forward: float = 0
    backward: float = 0

    def plus(self, other: Passes, weight: float = 1.0) -> Passes:
        """The sum of both, the other one multiplied by a weight."""
        return Passes(*(own + weight * add for own, add in zip(self, other, strict=True)))


class Work(NamedTuple):
    """One iteration on one sequence, on average, by network."""

    student: Passes
    critic: Passes
    teacher: Passes


def meta(*shape: int) -> Tensor:
    """A tensor on the meta device."""
    return torch.empty(*shape, device=META)


def make(config: BackboneConfig, rank: int, *, learns: bool) -> Backbone:
    """A backbone on the meta device, as it is trained."""
    backbone = meta_backbone(config).requires_grad_(learns)
    if learns and rank:
        adapt(backbone, rank=rank, alpha=float(rank))
    if learns:
        backbone.recompute_layers()
    return backbone


def attention_flops(query: tuple[int, ...], key: tuple[int, ...], *_: object, **__: object) -> int:
    """FLOPs of torch's own attention behind an operator of ours, shapes [B, T or K, H, D]."""
    batch, tokens, heads, width = query
    return 4 * batch * tokens * key[1] * heads * width


def product_flops(
    bias: tuple[int, ...], rows: tuple[int, ...], weight: tuple[int, ...], *_: object, **__: object
) -> int:
    """FLOPs of a product with GELU in its epilogue, which torch does not count."""
    del bias
    return 2 * rows[0] * rows[1] * weight[1]


@contextmanager
def counting(backbone: Backbone, found: list[Passes]) -> Generator[None, None, None]:
    """Append what a backbone does within."""
    passes = Counter[str]()

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object) -> object:
            passes["forward"] += 1
            passes["backward"] += torch.is_grad_enabled()
            return call(*args)

        return wrapper

    hidden: dict[Any, Callable[..., int]] = {
        torch.ops.afstream.vendor_attention: attention_flops,
        torch.ops.aten._addmm_activation: product_flops,
    }
    for name in CALLS:
        setattr(backbone, name, counted(getattr(backbone, name)))
    try:
        with FlopCounterMode(display=False, custom_mapping=hidden) as counter:
            yield
    finally:
        for name in CALLS:
            delattr(backbone, name)
    found.append(Passes(counter.get_total_flops(), passes["forward"], passes["backward"]))


def all_layers(config: BackboneConfig, count: Callable[[BackboneConfig], list[Passes]]) -> Passes:
    """The sum of what `count` finds, for as many layers as there are, from one and two of them."""
    one, two = (count(replace(config, num_layers=layers)) for layers in (1, 2))
    total = Passes()
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
            flow = predict_flow(model, latents, meta(1), text)
            if learns:
                flow.sum().backward()
        return found

    return all_layers(config, count)


def student_passes(
    recipe: WanRecipe, table: DmdConfig, config: BackboneConfig, rank: int
) -> Passes:
    """Rollout of a window and its share of a replay, means over a sequence and exit steps."""
    geometry, sampler = recipe.sizes.geometry, SamplerConfig()
    policy = memory_policy(table.memory, LENGTHS)
    size = (config.in_dim, geometry.latent_height, geometry.latent_width)
    shape = (1, policy.lengths.chunk_frames, *size)
    num_windows = 1 + len(table.boundaries)
    steps = len(sampler.steps)

    def run(sizes: BackboneConfig, exit_step: int) -> list[Passes]:
        windows: list[Passes] = []
        model = make(sizes, rank, learns=True)
        rollout = Rollout.of(model, policy, sampler, backend="reference")
        prompt = meta(1, sizes.text_len, sizes.text_dim)
        switch_frame = table.horizon_frames if table.switch else 0
        sequence = LongSequence(
            rollout, table, (prompt, prompt), switch_frame=switch_frame, shape=shape
        )
        for _ in range(min(COUNTED_WINDOWS, num_windows)):
            found: list[Passes] = []
            with counting(model, found):
                noise = meta(steps, *shape)
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
    return Passes().plus(first.plus(last), 1 / (2 * num_windows))


def iteration(recipe: WanRecipe, table: DmdConfig, rank: int) -> Work:
    """What one iteration does for one sequence."""
    student, teacher = WAN_BACKBONES[recipe.sizes.student], WAN_BACKBONES[recipe.sizes.teacher]
    share = 1 / table.critic_updates
    learned = clip_passes(recipe, student, rank, learns=True)
    asked = clip_passes(recipe, student, rank, learns=False)
    taught = clip_passes(recipe, teacher, 0, learns=False)
    return Work(
        student=student_passes(recipe, table, student, rank),
        critic=learned.plus(asked, share),
        # with and without the prompt
        teacher=Passes().plus(taught, 2 * share),
    )


def received_bytes(recipe: WanRecipe, work: Work, rank: int, gpus: int, parts: int) -> float:
    """What a rank receives in an iteration: gathered weights, and sums of gradients."""
    small = make(WAN_BACKBONES[recipe.sizes.student], rank, learns=True)
    large = meta_backbone(WAN_BACKBONES[recipe.sizes.teacher])
    weights, taught = (
        GATHERED_BYTES * sum(weight.numel() for weight in model.parameters())
        for model in (small, large)
    )
    gradients = REDUCED_BYTES * sum(weight.numel() for weight in trained(small).values())
    passes = work.student.plus(work.critic)
    total = (passes.forward + passes.backward) * weights + passes.backward * gradients
    return parts * (total + work.teacher.forward * taught) * (gpus - 1) / gpus


def stage_rows(
    recipe: WanRecipe, name: str, table: DmdConfig, rank: int, work: Work
) -> Iterator[list[str]]:
    """The table's rows of a stage."""
    for gpus, link in LINKS.items():
        rows = table.batch // gpus
        sizes = recipe.sizes.model_copy(update={"processes": gpus, "shard": gpus > 1})
        spread = recipe.model_copy(update={"sizes": sizes})
        one, two, held = (
            sum(
                part.bytes
                for part in dmd_memory(
                    spread,
                    table.model_copy(update={"batch": count * gpus}),
                    rank=rank,
                    processes=gpus,
                )
            )
            for count in (1, 2, rows)
        )
        fits = max(int((GPU_BYTES - one) // (two - one)) + 1, 0)
        flops = rows * sum(passes.flops for passes in work)
        # as many parts as sequences: what memory is counted for
        received = received_bytes(recipe, work, rank, gpus, rows)
        sent_s = received / link if link else 0.0
        hours = table.iterations * (flops / FLOPS_PER_S + sent_s) / HOUR_S
        yield [
            name,
            str(gpus),
            str(rows),
            f"{held / 1e9:.0f} GB",
            f"{fits}" if fits < rows else "all",
            f"{flops / 1e15:.1f}",
            f"{flops / FLOPS_PER_S:.1f} s",
            f"{received / 1e9:.0f} GB" if link else "-",
            f"{sent_s:.1f} s" if link else "-",
            f"{hours:.0f} h" if hours < 2 * DAY_H else f"{hours / DAY_H:.1f} days",
        ]


def page(recipe: WanRecipe) -> str:
    """What stands between the page's marks."""
    stages = [
        (name, table, rank, iteration(recipe, table, rank))
        for name, table, rank in (
            ("short", recipe.short, 0),
            ("long", recipe.long, recipe.lora.rank),
        )
    ]
    costs = [
        [name, *(f"{passes.flops / 1e12:.0f}" for passes in work)] for name, _, _, work in stages
    ]
    teacher = clip_passes(recipe, WAN_BACKBONES[recipe.sizes.teacher], 0, learns=False)
    pairs, frames, geometry = recipe.pairs, recipe.long.horizon_frames, recipe.sizes.geometry
    # Heun's method looks twice at each step but the last
    asked = 2 * pairs.steps - 1 if pairs.solver == "heun" else pairs.steps
    per_pair = 2 * asked * teacher.flops
    hours = pairs.pairs * per_pair / FLOPS_PER_S / HOUR_S
    return "\n".join(
        [
            *table_lines(HEAD, [row for stage in stages for row in stage_rows(recipe, *stage)]),
            "\nWhat one sequence costs in one iteration, in TFLOP:\n",
            *table_lines(("stage", *Work._fields), costs),
            f"\nOne call of the teacher on a window of {frames} latent frames"
            f" ({frames * geometry.rows * geometry.columns:,} tokens) is"
            f" {teacher.flops / 1e15:.2f} PFLOP. The stage `ode` begins with {pairs.pairs:,} of its"
            f" trajectories of {pairs.steps} steps ({pairs.solver}), with and without the prompt:"
            f" {per_pair / 1e15:.0f} PFLOP each, {hours:,.0f} GPU hours in all.",
        ]
    )


def table_lines(head: tuple[str, ...], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


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
    renewed = f"{before}{BEGIN}\n\n{page(recipe)}\n\n{END}{after}"
    if asked.check:
        return int(renewed != text)
    PAGE.write_text(renewed, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
