"""A backbone from weights in files, with at most one copy of them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from afstream.checkpoints.files import Weights, check_fit
from afstream.checkpoints.finite import check_finite, is_finite
from afstream.checkpoints.lora import Lora, merged_weight
from afstream.config import BackboneConfig
from afstream.model.dit import Backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSource:
    """What a backbone is made from.

    Attributes:
        what: what errors call the weights.
        weights: under Wan's names; views of files stay unread until their turn comes.
        loras: added to the weights on the way.
    """

    what: str
    config: BackboneConfig
    weights: Weights
    loras: Sequence[Lora] = ()

    def check(self) -> Backbone:
        """The backbone without memory for its weights: everything fits, and little was read.

        Raises:
            CheckpointError: weights or a LoRA do not fit.
        """
        with torch.device("meta"):
            backbone = Backbone(self.config)
        check_fit(backbone, self.weights, what=self.what)
        for lora in self.loras:
            lora.check(self.weights)
        return backbone

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """A weight with all LoRAs, where the weight lies; see `merged_weight`."""
        return merged_weight(name, weight, self.loras)

    def giver(self, name: str) -> str:
        """Who gave a weight that turned out not to be finite, in words."""
        if not is_finite(self.weights[name]):
            return self.what
        for lora in self.loras:
            added = [value for weight, value in lora.tensors() if weight == name]
            if not all(map(is_finite, added)):
                return f"LoRA {lora.path}"
        names = " and ".join(f"LoRA {lora.describe()}" for lora in self.loras)
        return f"{self.what} with {names} added" if names else self.what

    @torch.no_grad()
    def build(
        self, *, device: torch.device | str, dtype: torch.dtype, offload: int = 0
    ) -> Backbone:
        """A backbone on a device; the weights are brought there one after the other.

        Args:
            device: where it will run.
            dtype: of its weights there.
            offload: layers whose weights stay in host memory.

        Raises:
            CheckpointError: weights or a LoRA do not fit, and nothing was loaded; or what was
                loaded is not finite.
            ConfigError: there are fewer layers than are to be offloaded.
        """
        # all weights get their places first: what is needed on the way, made in between, would
        # leave holes in memory
        where = torch.device(device)
        backbone = self.check().to(dtype)
        backbone.materialize(where, offload=offload)
        for name, place in backbone.named_parameters():
            weight = self.weights[name]
            # a device works faster than its host, and on meta there is nothing to work on; where
            # nothing else is to be done, one copy is enough
            if self.loras or weight.dtype != dtype or where.type == "meta":
                weight = weight.to(where)
            # copied even where the file holds the same: it may be replaced, and lies at odd places
            place.copy_(self.merged(name, weight))
        check_finite(backbone.named_parameters(), self.giver)
        backbone.bind()
        return backbone.requires_grad_(False).eval()
