"""Names of weights in the original `Wan2.1_VAE.pth`, brought to those of a `vae/` folder."""

from __future__ import annotations

import re

# beginnings of names, of the whole codec and of a half
OUTER = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
HALF = {
    "conv1": "conv_in",
    "head.0": "norm_out",
    "head.2": "conv_out",
    "middle.0": "mid_block.resnets.0",
    "middle.1": "mid_block.attentions.0",
    "middle.2": "mid_block.resnets.1",
}
# in a residual block
INNER = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
# up to three residual blocks and what makes frames grow, stage by stage in one list
STAGE_LAYERS = 4
LISTED = re.compile(r"(downsamples|upsamples)\.([0-9]{1,3})\.(.+)")
PART = re.compile(r"(encoder|decoder)\.(.+)")


def vae_name(name: str) -> str:
    """A name; one that is not known stays as it is."""
    part = PART.fullmatch(name)
    if part is None:
        return _begun_anew(name, OUTER)
    half, rest = part.groups()
    listed = LISTED.fullmatch(rest)
    if listed is None:
        return f"{half}.{_inner(_begun_anew(rest, HALF))}"
    kind, index, inside = listed[1], int(listed[2]), _begun_anew(listed[3], INNER)
    if kind == "downsamples":
        return f"{half}.down_blocks.{index}.{inside}"
    stage, layer = divmod(index, STAGE_LAYERS)
    place = "upsamplers.0" if layer == STAGE_LAYERS - 1 else f"resnets.{layer}"
    return f"{half}.up_blocks.{stage}.{place}.{inside}"


def _inner(name: str) -> str:
    """A name in the middle, whose residual blocks are renamed within, too."""
    block = re.fullmatch(r"(mid_block\.resnets\.[01])\.(.+)", name)
    return f"{block[1]}.{_begun_anew(block[2], INNER)}" if block else name


def _begun_anew(name: str, table: dict[str, str]) -> str:
    for theirs, ours in table.items():
        if name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    return name
