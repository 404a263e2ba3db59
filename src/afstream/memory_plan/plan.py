"""What to change so that a model fits a GPU, the dearest changes last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from afstream.geometry import PATCH, SPATIAL_STRIDE, Geometry
from afstream.memory_plan.estimate import Estimate, estimate
from afstream.memory_plan.outline import Outline, Setting
from afstream.memory_plan.units import show_bytes
from afstream.spec import TextPlace

# smaller sizes as shares of what was asked for: 832x480, 640x368, 480x272
SHARES = ((10, 13), (15, 26))
STEP = SPATIAL_STRIDE * PATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """A setting of a model for a GPU.

    Attributes:
        asked: what was asked for.
        setting: what is proposed: the first that fits, or what needs least.
        estimate: of the proposal.
        available: bytes of the GPU.
    """

    asked: Setting
    setting: Setting
    estimate: Estimate
    available: int

    @property
    def fits(self) -> bool:
        """Whether the proposal fits."""
        return self.estimate.peak_bytes <= self.available

    @property
    def options(self) -> tuple[str, ...]:
        """What to add to the command line; nothing where all stays as it was asked for."""
        new, old = self.setting, self.asked
        size = new.geometry
        changes = (
            (new.text != old.text, ("--text-encoder", new.text)),
            (new.tiny != old.tiny, ("--vae", "tiny")),
            (new.offload != old.offload, ("--offload", str(new.offload))),
            (size != old.geometry, ("--size", f"{size.width_px}x{size.height_px}")),
        )
        return tuple(word for changed, words in changes if changed for word in words)


def plan(outline: Outline, setting: Setting, available: int) -> MemoryPlan:
    """The first of these that fits, or else the one that needs least.

    As asked; the text encoder dropped or on the cpu; also a tiny VAE; also as few offloaded
    layers as will do; all of this again at smaller sizes.

    Args:
        outline: of the model.
        setting: what was asked for.
        available: bytes of the GPU, nothing loaded.

    Raises:
        ConfigError: there are fewer layers than are to be offloaded.
    """
    tried: list[MemoryPlan] = []
    for proposal in _proposals(outline, setting, available):
        found = MemoryPlan(
            asked=setting,
            setting=proposal,
            estimate=estimate(outline, proposal),
            available=available,
        )
        if found.fits:
            return found
        tried.append(found)
    return min(tried, key=lambda one: one.estimate.peak_bytes)


def refusal(wanted: MemoryPlan, asked: Estimate, *, name: str) -> str:
    """A sentence on what does not fit, and one on what does.

    Args:
        wanted: a plan with changes.
        asked: the estimate of what was asked for.
        name: of the model.
    """
    size = wanted.asked.geometry
    needed, there = show_bytes(asked.peak_bytes), show_bytes(wanted.available)
    options = " ".join(wanted.options)
    enough = show_bytes(wanted.estimate.peak_bytes)
    fault = (
        f"the model {name!r} at {size.width_px}x{size.height_px} needs about {needed} of GPU"
        f" memory, and {there} are there"
    )
    if wanted.fits:
        return f"{fault}; add {options}, which needs {enough}"
    least = f"with {options} it" if options else "it"
    return f"{fault}; {least} needs {enough} at least, so take a larger GPU or another model"


def smaller_sizes(size: Geometry) -> Sequence[Geometry]:
    """The next sizes down, of about the same shape."""
    made = [
        Geometry(
            width_px=max(STEP, size.width_px * part // (whole * STEP) * STEP),
            height_px=max(STEP, size.height_px * part // (whole * STEP) * STEP),
        )
        for part, whole in SHARES
    ]
    return [one for one in dict.fromkeys(made) if one != size]


def text_places(outline: Outline, setting: Setting) -> Sequence[TextPlace]:
    """Where the text encoder may go, from where it was asked to be to what needs least."""
    if not outline.is_folder:
        return (setting.text,)
    places: tuple[TextPlace, ...] = ("device", "drop", "cpu")
    rest = places[places.index(setting.text) + 1 :]
    return (setting.text, *(place for place in rest if setting.prompts or place != "drop"))


def _proposals(outline: Outline, asked: Setting, available: int) -> Iterator[Setting]:
    places = text_places(outline, asked)
    # a decoder that was asked for stays
    can_shrink = outline.is_folder and outline.spec.vae is None
    sizes = smaller_sizes(asked.geometry) if outline.model.any_size else ()
    for size in (asked.geometry, *sizes):
        sized = replace(asked, geometry=size)
        changed = [replace(sized, text=place) for place in places]
        yield from changed
        # what saves more is added to what saves less
        changed = changed[1:] or changed
        if can_shrink:
            changed = [replace(one, tiny=True) for one in changed]
            yield from changed
        if outline.model.any_size:
            yield from (_offloaded(outline, one, available) for one in changed)


def _offloaded(outline: Outline, setting: Setting, available: int) -> Setting:
    """With as few offloaded layers as fit, or with all of them."""
    layers = len(outline.backbone.blocks)
    for count in range(setting.offload + 1, layers):
        proposal = replace(setting, offload=count)
        if estimate(outline, proposal).peak_bytes <= available:
            return proposal
    return replace(setting, offload=layers)
