"""Layers of Wan2.1's video codec, channels last, with the frames that they remember.

Frames are [B, T, H, W, C] and contiguous, which is what matrix units read: a convolution sees them
as [B, C, T, H, W] without a copy. In time it is causal: it takes its input behind the frames that
it saw last. A bias and a residual are added by the norm that reads them next.

Names of weights are those of diffusers' `AutoencoderKLWan`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from afstream_kernels import add_up, channel_norm, norm_silu

# frames that a convolution over three frames of time remembers
MEMORY_FRAMES = 2

# what one half of the codec remembers of a scene: for each convolution, the frames it saw last;
# keep it and come back to it, no later call changes it
CodecState = tuple[Tensor, ...]


class Past:
    """The frames before, in the order in which layers take them; and those for the next call.

    Args:
        state: of the last call; None where a scene begins.
    """

    def __init__(self, state: CodecState | None) -> None:
        self.begins = state is None
        self._before: Iterator[Tensor] = iter(state or ())
        self._after: list[Tensor] = []

    def take(self, x: Tensor, num_frames: int = MEMORY_FRAMES) -> Tensor:
        """The frames [B, num_frames, H, W, C] before x [B, T, H, W, C], zeros at first.

        Raises:
            ValueError: the state is of another codec, or of frames of another size.
        """
        wanted = (x.shape[0], num_frames, *x.shape[2:])
        if self.begins:
            return x.new_zeros(wanted)
        before = next(self._before, None)
        if before is None or (before.shape, before.dtype) != (wanted, x.dtype):
            raise ValueError("the state is of another codec, or of a video of another size")
        return before

    def keep(self, frames: Tensor) -> None:
        """Remember frames; they are the state's own, not a view of something larger."""
        self._after.append(frames)

    def state(self) -> CodecState:
        """All that was kept; raises `ValueError` where the old state holds more than was taken."""
        if next(self._before, None) is not None:
            raise ValueError("the state is of another codec")
        return tuple(self._after)


class Norm(nn.Module):
    """RMSNorm over channels; its scale has as many axes as in the public files."""

    def __init__(self, channels: int, *, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    @property
    def weight(self) -> Tensor:
        """The scale [C]."""
        return self.gamma.flatten()


class Sum:
    """Frames x [B, T, H, W, C] and what is still to be added: a bias [C], a residual like x.

    A residual is added, over x, by the first that passes over both; then it is let go of.
    """

    def __init__(
        self, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
    ) -> None:
        self.x = x
        self.bias = bias
        self.residual = residual

    def total(self) -> Tensor:
        """The sum, in the place of x."""
        if self.bias is not None and self.residual is not None:
            add_up(self.x, self.bias, self.residual)
        elif self.bias is not None:
            self.x.add_(self.bias)
        elif self.residual is not None:
            self.x.add_(self.residual)
        self.bias = self.residual = None
        return self.x

    def norm_silu(self, norm: Norm, past: Past, *, last_use: bool = False) -> Tensor:
        """What a causal convolution reads, [B, 2 + T, H, W, C]; see `afstream_kernels.norm_silu`.

        Args:
            norm: has the norm's scale.
            past: of the convolution.
            last_use: x is not read again; else what there is to add to a residual is added.
        """
        keep_sum = self.residual is not None and not last_use
        frames, last = norm_silu(
            self.x,
            norm.weight,
            past.take(self.x),
            bias=self.bias,
            residual=self.residual,
            keep_sum=keep_sum,
        )
        past.keep(last)
        if keep_sum:
            self.bias = self.residual = None
        return frames


class CausalConv(nn.Conv3d):
    """A convolution of frames that stand behind those it remembers; its bias is left to others."""

    # there always is one
    bias: nn.Parameter  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int, int] = (3, 3, 3),
        *,
        time_stride: int = 1,
    ) -> None:
        _, height, width = size
        super().__init__(
            inputs,
            outputs,
            size,
            stride=(time_stride, 1, 1),
            padding=(0, height // 2, width // 2),
        )

    def forward(self, frames: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[B, P + T, H, W, C] -> [B, T, H, W, O] with a stride of 1, without the bias."""
        x = frames.movedim(-1, 1)
        return channels_last(
            functional.conv3d(x, self.weight, None, self.stride, self.padding), frames
        )

    def remembering(self, x: Tensor, past: Past) -> Sum:
        """The same of x [B, T, H, W, C] that no norm comes before."""
        frames = torch.cat([past.take(x), x], dim=1)
        past.keep(last_of(frames))
        return Sum(self(frames), self.bias)


class PlaneConv(nn.Conv2d):
    """A convolution of single frames; its bias is left to others."""

    def forward(self, frames: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[B, T, H, W, C] -> [B, T, H', W', O], without the bias."""
        x = rearrange(frames, "b t h w c -> (b t) c h w")
        out = functional.conv2d(x, self.weight, None, self.stride, self.padding)
        return channels_last(out, frames).unflatten(0, frames.shape[:2])


class Residual(nn.Module):
    """Two causal convolutions, each behind norm and SiLU, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = Norm(inputs)
        self.conv1 = CausalConv(inputs, outputs)
        self.norm2 = Norm(outputs)
        self.conv2 = CausalConv(outputs, outputs)
        self.conv_shortcut = (
            nn.Identity() if inputs == outputs else CausalConv(inputs, outputs, (1, 1, 1))
        )

    def forward(self, x: Sum, past: Past) -> Sum:
        """[B, T, H, W, C] -> [B, T, H, W, O]."""
        inner = Sum(self.conv1(x.norm_silu(self.norm1, past)), self.conv1.bias)
        frames = inner.norm_silu(self.norm2, past, last_use=True)
        # so that the convolution finds its room free
        del inner
        made = Sum(self.conv2(frames), self.conv2.bias, x.x)
        if isinstance(self.conv_shortcut, CausalConv):
            made.residual = self.conv_shortcut(x.total())
            made.bias = self.conv2.bias + self.conv_shortcut.bias
        elif x.bias is not None:
            made.bias = self.conv2.bias + x.bias
        return made


class Attention(nn.Module):
    """Attention of all pixels of a frame to each other, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Sum:
        """[B, T, H, W, C] -> the same."""
        normed = channel_norm(x, self.norm.weight).to(x.dtype)
        pixels = rearrange(normed, "b t h w c -> (b t) 1 (h w) c")
        q, k, v = _pointwise(self.to_qkv, pixels).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return Sum(_pointwise(self.proj, mixed).view(x.shape), residual=x)


class Middle(nn.Module):
    """Attention between two residual blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Residual(channels, channels) for _ in range(2)])
        self.attentions = nn.ModuleList([Attention(channels)])

    def forward(self, x: Sum, past: Past) -> Sum:
        """[B, T, H, W, C] -> the same."""
        first, second = self.resnets
        return second(self.attentions[0](first(x, past).total()), past)


def last_of(frames: Tensor, num_frames: int = MEMORY_FRAMES) -> Tensor:
    """A copy of the last frames [B, num_frames, H, W, C], which keeps nothing else alive."""
    return frames[:, -num_frames:].clone(memory_format=torch.contiguous_format)


def channels_last(made: Tensor, source: Tensor) -> Tensor:
    """What a convolution made, [B, O, ...], as [B, ..., O]; `source` is what it was made of."""
    frames = made.movedim(1, -1)
    if source.device.type == "meta" and made.is_contiguous():
        # torch lays it out otherwise there than on a GPU, and a copy would be counted
        return made.view(frames.shape)
    return frames.contiguous()


def _pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of single pixels x [..., C] -> [..., O]."""
    return functional.linear(x, conv.weight.flatten(1), conv.bias)
