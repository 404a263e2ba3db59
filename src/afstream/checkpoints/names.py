"""What checkpoints call their files and weights; Wan2.1's names of weights are ours."""

from __future__ import annotations

import re

CONFIG = "config.json"
# files of weights in folders of diffusers and transformers begin so
STEM = "diffusion_pytorch_model"
TEXT_STEM = "model"
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
# what a config.json calls its model
VAE_CLASS = "AutoencoderKLWan"
BACKBONE_CLASS = "WanTransformer3DModel"
# such a class begins so where the backbone is a few-step student
CAUSAL_CLASS = "CausalWan"
TEXT_TYPE = "umt5"

# of a text encoder's file: the bytes of a sentencepiece model, as ComfyUI's have them
PIECES_TENSOR = "spiece_model"

# stand anywhere in a name: what wrapped the modules when they were saved
WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")
# stand before a name: PEFT, data parallel training, students, ComfyUI, diffusers' LoRA, rCM,
# DiffSynth
PREFIXES = (
    "base_model.model.",
    "module.",
    "model.",
    "diffusion_model.",
    "transformer.",
    "net.",
    "pipe.",
    "dit.",
)

# diffusers' module names and Wan's
OUTER = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}
# likewise, in a layer; diffusers counts the norms in the order of their use
INNER = {
    **{
        f"{theirs}.{their_part}": f"{ours}.{our_part}"
        for theirs, ours in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for their_part, our_part in (
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "o"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        )
    },
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "scale_shift_table": "modulation",
}
LAYER = re.compile(r"(blocks\.[0-9]{1,6}\.)(.+)")


def plain_name(name: str) -> str:
    """A weight's name without what stood around it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    while prefix := next((word for word in PREFIXES if name.startswith(word)), ""):
        name = name.removeprefix(prefix)
    return name


def wan_name(name: str) -> str:
    """A weight's name in Wan2.1, whatever stood around it; unknown names stay as they are."""
    name = plain_name(name)
    layer = LAYER.fullmatch(name)
    return layer[1] + _renamed(layer[2], INNER) if layer else _renamed(name, OUTER)


def _renamed(name: str, table: dict[str, str]) -> str:
    for theirs, ours in table.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    return name
