"""What weights are for, told from names that only one kind of weights has."""

from __future__ import annotations

import re
from dataclasses import dataclass

from afstream.checkpoints.findings import Kind
from afstream.checkpoints.wan_kinds import CHANNELS, FAMILY
from afstream.checkpoints.weights import Weights

# of a backbone, under Wan's names
BACKBONE_NAMES = ("patch_embedding.weight", "blocks.0.ffn.0.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Names that only one kind of weights has.

    Attributes:
        kind: which.
        layout: who names them so; empty where there is one way only.
        names: patterns; a weight of each must be there.
        channels: a weight, and its axis that counts latent channels; None where none does.
    """

    kind: Kind
    layout: str = ""
    names: tuple[str, ...]
    channels: tuple[str, int] | None = None

    def fits(self, weights: Weights) -> bool:
        """Whether weights have all of the names."""
        return all(any(map(re.compile(name).fullmatch, weights)) for name in self.names)

    def family(self, weights: Weights) -> str:
        """The family of models that the weights belong to."""
        if self.channels is None:
            return FAMILY
        name, axis = self.channels
        shape = weights[name].shape if name in weights else ()
        count = shape[axis] if axis < len(shape) else "unknown"
        return FAMILY if count == CHANNELS else f"of a model with {count} latent channels"


SIGNATURES = (
    Signature(
        kind="Wan VAE",
        layout="original",
        names=(r"encoder\.conv1\.weight", r"decoder\.conv1\.weight"),
        channels=("conv2.weight", 0),
    ),
    Signature(
        kind="Wan VAE",
        layout="diffusers",
        names=(r"encoder\.conv_in\.weight", r"decoder\.conv_in\.weight"),
        channels=("post_quant_conv.weight", 0),
    ),
    Signature(
        kind="text encoder",
        layout="original",
        names=(r"token_embedding\.weight", r"blocks\.0\.attn\.q\.weight"),
    ),
    Signature(
        kind="text encoder",
        layout="transformers",
        names=(r"encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight",),
    ),
    # TAEHV: a numbered sequence with blocks of three convolutions in it
    Signature(
        kind="tiny VAE",
        names=(r"decoder\.1\.weight", r"decoder\.\d+\.conv\.0\.weight"),
        channels=("decoder.1.weight", 1),
    ),
)


def is_backbone(weights: Weights) -> bool:
    """Whether weights under Wan's names are a backbone's."""
    return all(name in weights for name in BACKBONE_NAMES)


def signature_of(weights: Weights) -> Signature | None:
    """The signature that weights of a part have; None when they have none that is known."""
    return next((one for one in SIGNATURES if one.fits(weights)), None)
