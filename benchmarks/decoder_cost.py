"""What Wan's video decoder costs, beside diffusers' decoder as afstream used it before.

    python benchmarks/decoder_cost.py [--no-seconds]

Counts on torch's meta device, at 832x480 in bfloat16, what the steady decoding of a chunk of three
latent frames takes: operations, kernel launches, bytes that kernels read and write. Then times both
on this CPU at 256x256, with a quarter of the channels (`lightvaew2_1`) and random weights, in one
run and in seconds of the processor. Writes `results/decoder_cost.json`, and its part of
docs/performance.md between the lines `<!-- decoder cost -->` and `<!-- end of decoder cost -->`.
Needs diffusers, and Triton for the counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from afstream.bench.machine import cpu_name
from afstream.checkpoints.configs import VaeFile
from afstream.families.wan.autoencoder import Autoencoder
from afstream.families.wan.facts import LATENT_MEAN, LATENT_STD
from afstream.families.wan.vae import WanVae
from afstream.memory_plan.count import LiveBytes

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "decoder_cost.json"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- decoder cost -->", "<!-- end of decoder cost -->"
CHUNK_FRAMES, CHANNELS = 3, 16
# latent rows and columns of 832x480, and of 256x256
COUNTED, TIMED = (60, 104), (32, 32)
LIGHT = VaeFile(base_dim=24)
# the least is what others on the machine disturbed least
ROUNDS = 4
TERA, GIGA = 1e12, 1e9

Decode = Callable[[Tensor, Any], tuple[Tensor, Any]]


class FormerVae:
    """The decoder as it was: diffusers' layers, one latent frame after the other."""

    def __init__(self, autoencoder: Any) -> None:  # noqa: ANN401  diffusers' class
        self.autoencoder = autoencoder
        weight = next(autoencoder.parameters())
        exact = torch.promote_types(weight.dtype, torch.float32)
        self._dtype = weight.dtype
        self._mean, self._std = (
            torch.tensor(values, dtype=exact, device=weight.device)[:, None, None]
            for values in (LATENT_MEAN, LATENT_STD)
        )

    @torch.no_grad()
    def decode(self, latents: Tensor, state: Any) -> tuple[Tensor, Any]:  # noqa: ANN401
        """See `WanVae`."""
        codec = self.autoencoder
        raw = (latents * self._std + self._mean).to(self._dtype).transpose(1, 2)
        convolutions = sum(isinstance(layer, nn.Conv3d) for layer in codec.decoder.modules())
        features = list(state) if state else [None] * convolutions
        pictures = [
            codec.decoder(codec.post_quant_conv(frame), feat_cache=features, feat_idx=[0])
            for frame in raw.split(1, dim=2)
        ]
        return torch.cat(pictures, dim=2).clamp(-1, 1).transpose(1, 2), tuple(features)


class FusedAttention(TorchFunctionMode):
    """Tells `Traffic` of attention as of one kernel, which it is on a GPU and not on meta."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        made = torch.empty_like(args[0], memory_format=torch.contiguous_format)
        self._traffic.launch(*args, made)
        return made


class Traffic(TorchDispatchMode):
    """Counts kernels, and the bytes of the tensors that they read and write.

    cuDNN has convolutions without a bias, so that torch adds one with a kernel of its own
    (aten/src/ATen/native/Convolution.cpp); this is counted apart.
    """

    # makes memory without touching it
    ALLOCATIONS = frozenset(("empty", "new_empty", "empty_like", "empty_strided"))
    # overwrites its first tensor without reading it
    WRITES = frozenset(("copy_", "fill_", "zero_"))

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.num_bytes = self.bias_launches = self.bias_bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = list(_tensors((args, tuple((kwargs or {}).values()))))
        results = list(_tensors(made))
        written = [
            argument
            for argument, said in zip(args, func._schema.arguments, strict=False)
            if said.alias_info is not None and said.alias_info.is_write
        ]
        known = {id(tensor.untyped_storage()) for tensor in given}
        fresh = [tensor for tensor in results if id(tensor.untyped_storage()) not in known]
        if name in self.ALLOCATIONS or not (fresh or written):
            return made
        read = given[1:] if name in self.WRITES else given
        self.launch(*read, *fresh, *written)
        if name == "convolution" and args[2] is not None:
            self.bias_launches += 1
            self.bias_bytes += 2 * touched_bytes(made)
        return made

    def launch(self, *touched: Tensor) -> None:
        """Count a kernel that reads or writes these."""
        self.launches += 1
        self.num_bytes += sum(map(touched_bytes, touched))


def touched_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor, repeated values counted once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    values = [size for size, stride in sizes if stride or size == 1]
    return torch.Size(values).numel() * tensor.itemsize


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _tensors(entry)


def decoders(config: VaeFile, *, dtype: torch.dtype, device: str) -> dict[str, Decode]:
    """Both, with the same random weights."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import (  # noqa: PLC0415  for this alone
        AutoencoderKLWan,
    )

    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        own = Autoencoder(config).to(dtype).requires_grad_(False).eval()
        former: Any = AutoencoderKLWan(base_dim=config.base_dim)
    # not by its own `to`, which warns of parts that Wan's does not have
    nn.Module.to(former, dtype)
    former.requires_grad_(False).eval().load_state_dict(own.state_dict(), assign=device == "meta")
    return {"before": FormerVae(former).decode, "now": WanVae(own).decode}


@torch.no_grad()
def counted(decode: Decode) -> dict[str, int]:
    """What the third chunk of a scene takes."""
    latents = torch.zeros(1, CHUNK_FRAMES, CHANNELS, *COUNTED, device="meta")
    with LiveBytes() as memory:
        state = decode(latents, decode(latents, None)[1])[1]
        memory.reset_peak()
        state = decode(latents, state)[1]
    with Traffic() as traffic, FusedAttention(traffic):
        decode(latents, state)
    with FlopCounterMode(display=False) as flops:
        decode(latents, state)
    return {
        "operations": flops.get_total_flops(),
        "launches": traffic.launches,
        "bytes": traffic.num_bytes,
        "bias_launches": traffic.bias_launches,
        "bias_bytes": traffic.bias_bytes,
        "state_bytes": memory.now,
        "work_bytes": memory.peak - memory.now,
    }


@torch.inference_mode()
def timed(both: dict[str, Decode]) -> dict[str, float]:
    """Seconds of the processor for a steady chunk, the least of a few, taken in turn."""
    latents = torch.randn(1, CHUNK_FRAMES, CHANNELS, *TIMED)
    states = {name: decode(latents, None)[1] for name, decode in both.items()}
    spent: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(ROUNDS):
        for name, decode in both.items():
            began = time.process_time()
            _, states[name] = decode(latents, states[name])
            spent[name].append(time.process_time() - began)
    return {name: min(times) for name, times in spent.items()}


def measure(*, seconds: bool) -> dict[str, Any]:
    """Everything."""
    meta = decoders(VaeFile(), dtype=torch.bfloat16, device="meta")
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "counted": {name: counted(decode) for name, decode in meta.items()},
    }
    if seconds:
        result["processor"] = cpu_name()
        result["threads"] = torch.get_num_threads()
        result["seconds"] = {
            str(dtype).removeprefix("torch."): timed(decoders(LIGHT, dtype=dtype, device="cpu"))
            for dtype in (torch.float32, torch.bfloat16)
        }
    return result


def section(result: dict[str, Any]) -> str:
    """The result as a part of a page."""
    before, now = result["counted"]["before"], result["counted"]["now"]

    def row(name: str, key: str, unit: float = 1) -> tuple[str, ...]:
        return name, *(f"{one[key] / unit:.{0 if unit == 1 else 1}f}" for one in (before, now))

    rows = [
        ("", "diffusers' layers", "now"),
        ("---", "---:", "---:"),
        row("operations of matrix units, TFLOP", "operations", TERA),
        row("kernels", "launches"),
        row("read and written, GB", "bytes", GIGA),
        row("more kernels, which add biases", "bias_launches"),
        row("read and written by these, GB", "bias_bytes", GIGA),
        row("state from chunk to chunk, GB", "state_bytes", GIGA),
        row("work memory at its peak, GB", "work_bytes", GIGA),
    ]
    parts = [
        "## Wan's video decoder",
        "Written by `benchmarks/decoder_cost.py`. Counted on the meta device of torch"
        f" {result['torch']}, not measured: the steady decoding of a chunk (three latent frames, 12"
        " video frames) at 832x480 in bfloat16. Bytes are those of the tensors that kernels read"
        " and write, each tensor once; what a convolution takes internally is not seen.",
        "\n".join(f"| {' | '.join(line)} |" for line in rows),
    ]
    for dtype, spent in result.get("seconds", {}).items():
        parts.append(
            f"Measured on a CPU ({result['processor']}, {result['threads']} thread), 256x256, a"
            f" quarter of the channels, {dtype}: {spent['before']:.2f} s before, {spent['now']:.2f}"
            f" s now, {spent['before'] / spent['now']:.2f} times as fast. This says nothing about a"
            " GPU."
        )
    return "\n\n".join(parts)


def part_of(page: str) -> str:
    """What this script wrote to a page, marks and a line before it included; empty if nothing."""
    _, begin, rest = page.partition(f"\n{BEGIN}")
    inside, end, _ = rest.partition(END)
    return f"{begin}{inside}{end}\n" if end else ""


def with_part(page: str, made: str) -> str:
    """A page with its part replaced, or added."""
    return f"{page.replace(part_of(page), '')}\n{BEGIN}\n\n{made}\n\n{END}\n"


def main() -> int:
    """Count, time, print and keep."""
    parser = argparse.ArgumentParser(description="What Wan's video decoder costs.")
    parser.add_argument("--no-seconds", action="store_true", help="only count")
    given = parser.parse_args()
    result = measure(seconds=not given.no_seconds)
    made = section(result)
    print(made)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
