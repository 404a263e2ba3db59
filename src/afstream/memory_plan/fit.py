"""Before a model is loaded: whether it fits the GPU, and what to change so that it does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from afstream.attention import choose_attention
from afstream.errors import ConfigError
from afstream.families.base import VideoModel
from afstream.families.opening import model_device
from afstream.geometry import Geometry
from afstream.memory_plan.count import META, CannotCountError
from afstream.memory_plan.estimate import estimate
from afstream.memory_plan.meta_model import MetaModel
from afstream.memory_plan.report import CONTEXT_BYTES, MemoryReport
from afstream.memory_plan.units import show_bytes
from afstream.spec import TINY_VAE, StreamConfig, TextPlace

GPU = torch.device("cuda")
# from the fastest to the one that needs least
TEXT_PLACES: tuple[TextPlace, ...] = ("device", "drop", "cpu")
# smaller sizes as shares of what was asked for: 832x480, 640x368, 480x272
SHARES = ((10, 13), (15, 26))

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a model fits a GPU.

    Attributes:
        asked: the report of what was asked for.
        best: of what is proposed: the first that fits, or what needs least.
        available: bytes of the GPU; None for a GPU that has room for everything.
    """

    asked: MemoryReport
    best: MemoryReport
    available: int | None = None

    @property
    def fits(self) -> bool:
        """Whether the proposal fits."""
        return self.available is None or self.best.peak_bytes <= self.available

    @property
    def options(self) -> tuple[str, ...]:
        """What to add to the command line; nothing where all stays as it was asked for."""
        old, new = self.asked.config.model, self.best.config.model
        size = self.best.geometry
        changes = (
            (new.text != old.text, "--text-encoder", str(new.text)),
            (new.vae != old.vae, "--vae", str(new.vae)),
            (new.offload != old.offload, "--offload", str(new.offload)),
            (size != self.asked.geometry, "--size", f"{size.width_px}x{size.height_px}"),
        )
        return tuple(word for changed, *words in changes if changed for word in words)


def fit(config: StreamConfig, opened: VideoModel) -> tuple[StreamConfig, MemoryReport | None]:
    """See that a model fits the GPU; nothing is loaded.

    A text encoder without a place gets the fastest one that fits. The model is the config's, as
    `open_meta` gives it in the dtype of a GPU.

    Returns:
        The config with the text encoder's place, and its report; unchanged and None where there
        is no GPU to fit, or where the installed libraries cannot be counted.

    Raises:
        ConfigError: it cannot fit; says what to change.
    """
    device = model_device(config.model.device)
    if device.type != "cuda" and config.gpu_memory is None:
        return config, None
    where = device if device.type == "cuda" else META
    backend = choose_attention(config.backend, device=where, dtype=opened.backbone.dtype)
    asked = replace(config, backend=backend.name)
    try:
        model = MetaModel(opened, config.model)
        found = best_fit(model, asked, config.gpu_memory or free_bytes(device))
    except CannotCountError as error:
        problem = (
            f"the memory of the model {config.model.name!r} cannot be counted with the installed"
            f" torch and transformers ({error})"
        )
        if config.gpu_memory is not None:
            raise ConfigError(f"{problem}; leave --gpu-memory out") from error
        log.warning("%s; whether it fits the GPU is not checked", problem)
        return config, None
    best = found.best.config
    # only a place that nobody asked for may change without a word
    if not found.fits or best != _with_text(asked, config.model.text or best.model.text):
        raise ConfigError(oom_message(found))
    return replace(config, model=best.model) if text_places(model, asked) else config, found.best


def free_bytes(device: torch.device) -> int:
    """Free GPU bytes, including this process's unused reservation and the CUDA context."""
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused + CONTEXT_BYTES


def best_fit(model: MetaModel, config: StreamConfig, available: int) -> Fit:
    """The first proposal that fits a GPU, or else the one that needs least.

    As asked; the text encoder dropped or on the cpu; also a tiny VAE; also as few offloaded
    layers as will do; all of this again at smaller sizes.

    Raises:
        ConfigError: there are fewer layers than are to be offloaded.
    """
    config = _with_text(config, config.model.text or "device")
    asked = estimate(model, config)
    tried: list[MemoryReport] = []
    for proposal in _proposals(model, config, available):
        report = estimate(model, proposal)
        if report.peak_bytes <= available:
            return Fit(asked=asked, best=report, available=available)
        tried.append(report)
    least = min(tried, key=lambda report: report.peak_bytes)
    return Fit(asked=asked, best=least, available=available)


def oom_message(found: Fit) -> str:
    """Say in a sentence what does not fit, and what does."""
    asked, size = found.asked, found.asked.geometry
    options, enough = " ".join(found.options), show_bytes(found.best.peak_bytes)
    fault = (
        f"the model {asked.model!r} at {size.width_px}x{size.height_px} needs about"
        f" {show_bytes(asked.peak_bytes)} of GPU memory, and {show_bytes(found.available or 0)}"
        " are there"
    )
    if found.fits:
        return f"{fault}; add {options}, which needs {enough}"
    least = f"with {options} it" if options else "it"
    return f"{fault}; {least} needs {enough} at least, so take a larger GPU or another model"


def smaller_sizes(size: Geometry) -> Sequence[Geometry]:
    """The next sizes down, of about the same shape."""
    step = size.spatial_stride * size.patch

    def scaled(px: int, part: int, whole: int) -> int:
        return max(step, px * part // (whole * step) * step)

    sides = [[scaled(px, *share) for px in (size.width_px, size.height_px)] for share in SHARES]
    made = [replace(size, width_px=width, height_px=height) for width, height in sides]
    return [one for one in dict.fromkeys(made) if one != size]


def text_places(model: MetaModel, config: StreamConfig) -> Sequence[TextPlace]:
    """Where else the text encoder may go, from the place asked for to the one that needs least."""
    if not model.takes("place for the text encoder"):
        return ()
    rest = TEXT_PLACES[TEXT_PLACES.index(config.model.text or "device") + 1 :]
    # an encoder that is dropped knows no prompt that comes later
    return [place for place in rest if config.prompts or place != "drop"]


def _proposals(model: MetaModel, asked: StreamConfig, available: int) -> Iterator[StreamConfig]:
    places = text_places(model, asked)
    # a decoder that was asked for stays
    can_shrink = model.takes("other VAE") and asked.model.vae is None
    smaller = smaller_sizes(model.geometry(asked.size)) if model.model.family.any_size else ()
    sizes = (asked.size, *((size.width_px, size.height_px) for size in smaller))
    for sized in (replace(asked, size=size) for size in sizes):
        yield sized
        # what saves more is added to what saves less
        changed = [_with_text(sized, place) for place in places]
        yield from changed
        changed = changed or [sized]
        if can_shrink:
            changed = [replace(one, model=replace(one.model, vae=TINY_VAE)) for one in changed]
            yield from changed
        if model.takes("offloaded layers"):
            yield from (_offloaded(model, one, available) for one in changed)


def _with_text(config: StreamConfig, place: TextPlace | None) -> StreamConfig:
    return replace(config, model=replace(config.model, text=place))


def _offloaded(model: MetaModel, config: StreamConfig, available: int) -> StreamConfig:
    """With as few offloaded layers as fit, or with all of them."""
    layers = len(model.backbone.blocks)
    proposal = config
    for count in range(config.model.offload + 1, layers + 1):
        proposal = replace(config, model=replace(config.model, offload=count))
        if estimate(model, proposal).peak_bytes <= available:
            break
    return proposal
