"""The family of Wan2.1 text-to-video models and their few-step students."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from afstream.families.base import ModelFamily, Placement, VideoModel
from afstream.families.wan.facts import FORMAT, GEOMETRY, KEPT_PROMPTS, LENGTHS
from afstream.spec import Addition, ModelSpec

if TYPE_CHECKING:
    import torch

    from afstream.checkpoints.findings import Finding
    from afstream.model.protocols import TextEncoder, VideoDecoder


class WanFamily(ModelFamily):
    """Model folders: as they are downloaded, or as `afstream convert` writes them."""

    name = "wan"
    given_as = "a Wan2.1 folder (text-to-video)"
    format = FORMAT
    geometry = GEOMETRY
    lengths = LENGTHS
    any_size = True
    kept_prompts = KEPT_PROMPTS
    takes: frozenset[Addition] = frozenset(
        (
            "student",
            "LoRA",
            "other VAE",
            "other text encoder",
            "place for the text encoder",
            "offloaded layers",
        )
    )

    def names(self, spec: ModelSpec) -> bool:
        """Whether it is a folder."""
        return Path(spec.name).is_dir()

    def open(self, spec: ModelSpec, where: Placement, prompts: Sequence[str] = ()) -> VideoModel:
        """See `ModelFamily`."""
        from afstream.families.wan.model import open_wan  # noqa: PLC0415

        return open_wan(spec, self, where, prompts)

    def identify(self, path: Path) -> Finding | None:
        """See `ModelFamily`: folders, students, LoRAs and parts alone."""
        from afstream.checkpoints.identify import identify  # noqa: PLC0415
        from afstream.families.wan.parts import with_fault  # noqa: PLC0415

        return with_fault(identify(path)) if path.exists() else None

    def check_prompt(self, text: TextEncoder, prompt: str) -> None:
        """Whether its tokens are few enough."""
        from afstream.families.wan.text import WanText  # noqa: PLC0415

        if isinstance(text, WanText):
            text.tokens(prompt)

    def encode_longest(self, text: TextEncoder) -> None:
        """See `ModelFamily`."""
        from afstream.families.wan.text import WanText  # noqa: PLC0415

        if isinstance(text, WanText):
            text.encode_longest()

    def tiny_decoder(self, dtype: torch.dtype) -> VideoDecoder:
        """TAEHV's `taew2_1`, whose file need not be there."""
        from afstream.families.wan.tiny import meta_tiny  # noqa: PLC0415

        return meta_tiny(dtype)


WAN = WanFamily()
