"""What the text encoder and the decoder share: optional packages, placing weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from afstream.checkpoints.files import Weights, check_fit
from afstream.checkpoints.finite import check_finite
from afstream.errors import CheckpointError, ConfigError

M = TypeVar("M", bound=nn.Module)

INSTALL = "pip install 'afstream[wan]'"


def optional(package: str, name: str) -> Any:  # noqa: ANN401  another package's class or function
    """Import a name from a package that only Wan models need, and only when one is loaded.

    Raises:
        ConfigError: the package is not installed, or is too old or broken.
    """
    try:
        return getattr(importlib.import_module(package), name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Wan models need transformers, diffusers and sentencepiece; install them with"
            f" {INSTALL}"
        ) from error
    # their lazy imports raise RuntimeError when something below them fails
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"Wan models need {name} from {package}, which the installed release does not give;"
            f" update it with {INSTALL} --upgrade"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSource(Generic[M]):
    """What a module is made from.

    Attributes:
        what: what errors call the weights.
        make: builds the module.
        weights: one for every name in it; views of files stay unread until their turn comes.
    """

    what: str
    make: Callable[[], M]
    weights: Weights

    def check(self) -> M:
        """The module without memory for its weights: everything fits, and little was read.

        Raises:
            CheckpointError: weights do not fit, or the module cannot have such sizes.
        """
        try:
            with torch.device("meta"):
                module = self.make()
        # what the packages raise for impossible sizes has no common base
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"{self.what} has sizes that make no model: {reason}; give Wan2.1's own"
            ) from error
        check_fit(module, self.weights, what=self.what)
        return module

    def giver(self, name: str) -> str:
        """Who gave a weight, in words."""
        return self.what

    def build(self, *, device: torch.device | str, dtype: torch.dtype) -> M:
        """The module with its weights on a device; raises what `check` raises."""
        module = self.check()
        # by identity, so that a weight under two names stays one tensor
        firsts = {id(self.weights[name]): name for name in module.state_dict()}
        copies = {
            key: self.weights[name].to(device, dtype, copy=True) for key, name in firsts.items()
        }
        state = {name: copies[id(self.weights[name])] for name in module.state_dict()}
        check_finite(state.items(), self.giver)
        module.load_state_dict(state, assign=True)
        return module.requires_grad_(False).eval()
