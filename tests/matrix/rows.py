"""A row of the table in docs/models.md: files as people have them, and what they are worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.wan_transformer import wan_weights

from afstream import ModelSpec

VAE, TEXT = "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"
WEIGHTS, OTHERS = wan_weights(), wan_weights(seed=1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a user gives, and a plain model that must make the same video.

    Attributes:
        spec: what is given; `name` is the plain folder's unless it is said.
        weights: of the plain model's backbone, as the rule makes them.
        like: what else the plain model is given.
        preset: what the files' names are recognised as.
    """

    spec: dict[str, Any]
    weights: dict[str, torch.Tensor] = field(default_factory=lambda: WEIGHTS)
    like: dict[str, Any] = field(default_factory=dict[str, Any])
    preset: str | None = None


Make = Callable[[Path, Path], Row]


class Rows(dict[str, Make]):
    """Rows by what the table calls them; each makes its files in a folder, beside a plain model."""

    def row(self, name: str) -> Callable[[Make], Make]:
        """Register what makes a row."""

        def keep(make: Make) -> Make:
            assert name not in self
            self[name] = make
            return make

        return keep


def under(prefix: str, weights: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in weights.items()}


def saved(path: Path, content: Any, metadata: dict[str, str] | None = None) -> str:
    """A path with content written there, as safetensors or by torch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".safetensors", ".sft"):
        plain = {name: value.detach().contiguous() for name, value in content.items()}
        save_file(plain, path, metadata)
    else:
        torch.save(content, path)
    return str(path)


def student(path: Path, content: Any, preset: str | None = None, **others: Any) -> Row:
    """A row for a student's file beside the plain folder."""
    return Row(spec={"student": saved(path, content)}, preset=preset, **others)


def spec_of(given: dict[str, Any], plain: Path) -> ModelSpec:
    """A model as it is given, of the plain folder unless it names another."""
    return replace(ModelSpec(name=str(plain), dtype="float32", device="cpu"), **given)
