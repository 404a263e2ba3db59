"""Shows the GPU memory of a model: the peak and the plan first, then every part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.text import Text

from afstream.text import printable

if TYPE_CHECKING:
    from afstream.memory_plan.fit import Fit

# what the phases are called
PHASES = {
    "encode": "while prompts are encoded",
    "load": "while weights are loaded",
    "stream": "while it streams",
    "switch": "at a prompt switch",
}


def memory_data(found: Fit) -> dict[str, Any]:
    """Memory as plain data."""
    asked = found.asked
    data = {
        "model": asked.model,
        "size_px": [asked.geometry.width_px, asked.geometry.height_px],
        "estimate": asked.as_data(),
    }
    if found.available is not None:
        data["plan"] = {
            "fits": found.fits,
            "options": found.options,
            "peak_bytes": found.best.peak_bytes,
        }
    return data


def memory_heading(found: Fit) -> Text:
    """Heading: what was counted, and at which size."""
    size = found.asked.geometry
    heading = Text(f"memory on a GPU at {size.width_px}x{size.height_px}, bfloat16", "bold")
    heading.append(f"  {printable(found.asked.model)}", "dim")
    return heading


def memory_rows(found: Fit) -> Iterator[tuple[str, str]]:
    """The peak, the plan for a GPU, then every part."""
    from afstream.memory_plan.units import show_bytes

    asked, enough = found.asked, show_bytes(found.best.peak_bytes)
    yield "peak", f"{show_bytes(asked.peak_bytes)}, {PHASES[asked.fullest.name]}"
    if found.available is not None:
        there, options = show_bytes(found.available), " ".join(found.options)
        if not found.fits:
            least = f"with {options} it" if options else "it"
            yield "plan", f"does not fit {there}; {least} needs {enough}"
        elif options:
            yield "plan", f"fits {there} with {options}: {enough}"
        else:
            yield "plan", f"fits {there} as it is"
    for part in asked.parts:
        yield part.name, f"{show_bytes(part.bytes)}, {part.why}"
