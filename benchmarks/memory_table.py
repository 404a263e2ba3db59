"""What Wan2.1 takes on a GPU at 832x480, as a Markdown table; nothing is downloaded or loaded.

    python benchmarks/memory_table.py

Weights, slots and states are exact, calls are counted on torch's meta device, and the CUDA
context, library workspaces and the allocator's slack are allowances (`afstream.memory_plan`). Where
docs/models.md has the lines `<!-- memory table -->` and `<!-- end of memory table -->`, what
stands between them is replaced. Needs transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from afstream.kvcache.memories import MEMORIES
from afstream.memory_plan.estimate import estimate
from afstream.memory_plan.found import PROMPTS, published
from afstream.memory_plan.units import GIB
from afstream.spec import ModelSpec, StreamConfig, TextPlace

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- memory table -->", "<!-- end of memory table -->"
MODELS = {"1.3B": "wan-1.3b", "14B": "wan-14b"}
HEADINGS = (
    *("Model", "Memory", "Text encoder", "VAE", "Offloaded"),
    *("Weights", "Window", "Anchors", "Decoder", "Peak", "Host"),
)
PLACES: tuple[TextPlace, ...] = ("device", "drop", "cpu")


def runs(layers: int) -> Iterator[tuple[str, ModelSpec]]:
    """A memory's name and where the model's parts go, for each row."""
    yield from (("anchor", ModelSpec(text=place)) for place in PLACES)
    yield from ((memory, ModelSpec(text="drop")) for memory in MEMORIES if memory != "anchor")
    yield from (
        ("anchor", ModelSpec(text="cpu", vae="tiny", offload=count))
        for count in (0, layers // 2, layers)
    )


def rows() -> Iterator[Sequence[str]]:
    """Cells in the order of the headings; memory in GiB."""
    for name, size in MODELS.items():
        model = published(size)
        for memory, spec in runs(len(model.backbone.blocks)):
            config = StreamConfig(model=spec, memory=memory, backend="triton", prompts=PROMPTS)
            found = estimate(model, config)
            weights = found.bytes_of("backbone weights") + found.bytes_of("decoder weights")
            weights += found.bytes_of("text encoder weights") if spec.text == "device" else 0
            amounts = (
                weights,
                found.bytes_of("KV window"),
                found.bytes_of("KV anchors"),
                found.bytes_of("decoder state") + found.bytes_of("decoding"),
                found.peak_bytes,
                found.host_bytes,
            )
            cells = (f"{amount / GIB:.1f}" for amount in amounts)
            yield (name, memory, str(spec.text), spec.vae or "own", str(spec.offload), *cells)


def table() -> str:
    """The table, figures to the right."""
    words = 4
    rule = ["---"] * words + ["---:"] * (len(HEADINGS) - words)
    lines = [HEADINGS, rule, *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replaced(page: str, made: str) -> str:
    """A page with its table replaced; as it was if it has no place for one."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n\n{made}\n\n{end}{after}" if end else page


def main() -> int:
    """Print the table, and bring it onto the page."""
    made = table()
    print(made)
    if PAGE.is_file():
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(replaced(page, made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
