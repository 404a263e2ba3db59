"""What the settings files of a model may say: types and bounds of every field that is used.

Bounds lie far above any model: what is beyond them is a damaged file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from afstream.config import Count, Eps, Layers, Rows, Size
from afstream.validation import SettingsFile

Name = Annotated[str, Field(pattern=r"^[\w.+-]{1,80}$", description="a name")]
FileName = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,255}$", description="the name of a file")]
PartFile = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$",
        max_length=255,
        description="the path of a file in the folder",
    ),
]

# one number for each latent channel
CHANNELS = Field(min_length=16, max_length=16)

# diffusers' words for sizes, and Wan's
WAN_WORDS = {
    "num_attention_heads": "num_heads",
    "attention_head_dim": "head_dim",
    "in_channels": "in_dim",
    "out_channels": "out_dim",
}


class IndexFile(SettingsFile):
    """The index of a model in shards: the file of each weight by its name."""

    weight_map: Annotated[dict[str, FileName], Field(min_length=1)]


class BackboneFile(SettingsFile):
    """`config.json` of a backbone, in Wan's words or diffusers'; what it does not say is None."""

    class_name: Name = Field("WanModel", alias="_class_name")
    model_type: Name = "t2v"
    dim: Size | None = None
    ffn_dim: Size | None = None
    freq_dim: Size | None = None
    text_dim: Size | None = None
    text_len: Rows | None = None
    num_heads: Count | None = None
    num_attention_heads: Count | None = None
    head_dim: Count | None = None
    attention_head_dim: Count | None = None
    num_layers: Layers | None = None
    in_dim: Count | None = None
    in_channels: Count | None = None
    out_dim: Count | None = None
    out_channels: Count | None = None
    patch_size: tuple[Count, Count, Count] | None = None
    eps: Eps | None = None

    def sizes(self) -> dict[str, Any]:
        """The sizes that it says, under the names of `BackboneConfig`.

        `head_dim` is among them where the heads are.
        """
        said = self.model_dump(exclude={"class_name", "model_type"}, exclude_none=True)
        sizes: dict[str, Any] = {WAN_WORDS.get(name, name): said[name] for name in said}
        if "head_dim" not in sizes and {"dim", "num_heads"} <= sizes.keys():
            sizes["head_dim"] = sizes["dim"] // sizes["num_heads"] or 1
        elif {"head_dim", "num_heads"} <= sizes.keys():
            sizes["dim"] = sizes["head_dim"] * sizes["num_heads"]
        return sizes


class TextEncoderFile(SettingsFile):
    """`config.json` of a UMT5 encoder, as transformers writes it."""

    vocab_size: Annotated[int, Field(ge=1, le=2**20)]
    d_model: Size
    d_kv: Size
    d_ff: Size
    num_layers: Layers
    num_heads: Count
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=2**7)] = 32
    relative_attention_max_distance: Annotated[int, Field(ge=2**6, le=2**16)] = 128
    layer_norm_epsilon: Eps = 1e-6
    feed_forward_proj: Name = "gated-gelu"


class VaeFile(SettingsFile):
    """`config.json` of a Wan2.1 VAE, as diffusers writes it."""

    base_dim: Count = 96
    decoder_base_dim: Count | None = None
    z_dim: Count = 16
    dim_mult: tuple[Count, Count, Count, Count] = (1, 2, 4, 4)
    num_res_blocks: Annotated[int, Field(ge=1, le=16)] = 2
    attn_scales: Annotated[tuple[float, ...], Field(max_length=0, description="empty")] = ()
    temperal_downsample: tuple[Literal[False], Literal[True], Literal[True]] = (False, True, True)
    latents_mean: Annotated[tuple[float, ...], CHANNELS] | None = None
    latents_std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], CHANNELS] | None = None
