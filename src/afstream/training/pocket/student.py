"""The pocket student, and its model calls over whole clips whose past is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afstream.attention.clip import ClipContext
from afstream.config import TIMESTEPS, BackboneConfig
from afstream.families.pocket.text import PocketText
from afstream.kvcache.policy import MemoryPolicy
from afstream.model.dit import Backbone, TextContext
from afstream.model.layers import TextKeys
from afstream.training.dmd.bidirectional import clip_context
from afstream.training.teacher_forcing import ClipPlan, plan_clip

# of a clip: the prompt at its start, and the prompt after its switch
Wording = tuple[str, str]


class Student(nn.Module):
    """Backbone and text encoder, trained together."""

    def __init__(self, backbone: Backbone, text: PocketText) -> None:
        super().__init__()
        self.backbone = backbone
        self.text = text

    @classmethod
    def fresh(cls, backbone: BackboneConfig, words: Sequence[str]) -> Student:
        """One with new weights; `words` is the vocabulary of its text encoder."""
        model = Backbone(backbone)
        text = PocketText(words, text_dim=backbone.text_dim, text_len=backbone.text_len)
        initialise(model)
        return cls(model, text)

    def read(self, prompts: Sequence[str]) -> TextContext:
        """Prompts for every layer, with gradients where weights learn."""
        return self.backbone.text_context(self.text(self.text.tokens(prompts)))


def initialise(backbone: Backbone) -> None:
    """Draw fresh weights: Xavier for linear maps, zeros for the head, small ones for the gates."""
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(backbone.head.head.weight)
    projection = backbone.time_projection[1]
    nn.init.normal_(projection.weight, std=0.02)  # pyright: ignore[reportArgumentType]


class ClipCall(NamedTuple):
    """How a model call over clips runs: its blocks, their attention, their prompts."""

    plan: ClipPlan
    attention: ClipContext
    text: TextContext


class ClipCalls:
    """A student's calls over clips: teacher forcing, with a stream's memory and positions."""

    def __init__(self, student: Student, chunk_frames: int) -> None:
        self._student = student
        self._chunk = chunk_frames
        self._plans: dict[tuple[object, ...], tuple[ClipPlan, ClipContext]] = {}

    def plan(
        self,
        policy: MemoryPolicy,
        shape: Sequence[int],
        switch: int,
        wordings: Sequence[Wording],
        *,
        learned: tuple[int, ...] | None = None,
    ) -> ClipCall:
        """The call over clips of a shape (F, C, h, w) that switch at a frame, 0 for none.

        `learned` are first frames of the chunks whose flow is wanted, by default all; see
        `plan_clip`.
        """
        student = self._student
        frames, _, *size = shape
        key = policy.name, tuple(shape), switch, learned
        if key not in self._plans:
            plan = plan_clip(policy, frames, switch or None, learned=learned)
            grid = self._chunk, size[0], size[1]
            self._plans[key] = plan, clip_context(student.backbone, plan.layout, grid)
        plan, attention = self._plans[key]
        before = student.read([first for first, _ in wordings])
        if not switch:
            return ClipCall(plan, attention, before)
        # both prompts side by side, each block masked to its own
        after = student.read([second for _, second in wordings])
        tokens = self._chunk * size[0] * size[1] // student.backbone.config.patch**2
        second = torch.tensor(plan.second_prompt, device=student.backbone.device)
        second = second.repeat_interleave(tokens)[:, None]
        length = before[0].k.shape[1]
        mask = torch.cat([~second.expand(-1, length), second.expand(-1, length)], dim=1)
        both = tuple(
            TextKeys(torch.cat([a.k, b.k], dim=1), torch.cat([a.v, b.v], dim=1), mask)
            for a, b in zip(before, after, strict=True)
        )
        return ClipCall(plan, attention, both)

    def flow(self, call: ClipCall, past: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The flow of the noisy chunks [B, L, C, h, w], of that shape.

        `past` [B, F, C, h, w] is what context chunks show of the clip, `sigma` [B, L / c] the
        noise share of each noisy chunk.
        """
        plan, backbone = call.plan, self._student.backbone
        shown = [
            past[:, block.frame : block.frame + self._chunk]
            for block in plan.blocks[: plan.first_noisy]
        ]
        latents = torch.cat([*shown, noisy], dim=1)
        timestep = torch.zeros(latents.shape[:2], device=latents.device)
        length = noisy.shape[1]
        timestep[:, -length:] = TIMESTEPS * sigma.repeat_interleave(self._chunk, dim=1)
        flow = backbone(latents, backbone.time_context(timestep), call.text, call.attention)
        return flow[:, -length:]
