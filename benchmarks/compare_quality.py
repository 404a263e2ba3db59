"""What a training stage did to the pocket model, as one table.

    python benchmarks/compare_quality.py docs/PAGE.md NAME=FILE.json NAME=FILE.json...

Reads results of `pocket_quality.py` and writes the page between its two markers; no figure is typed
by hand. A name that is given again adds what its first result is too old to have.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pocket_oracle.report import Share

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
ATTRIBUTES = ("colour", "shape", "motion", "background")
KINDS = ("steady", "switch", "kept", "long")

Result = Mapping[str, Any]


def lines(results: Mapping[str, Result]) -> Iterator[str]:
    """The table: for each window, a row a model."""
    yield f"| read | model | {' | '.join(ATTRIBUTES)} |"
    yield f"|---|---|{'---|' * len(ATTRIBUTES)}"
    first = next(iter(results.values()))
    for kind in KINDS:
        for index in range(min(len(result.get(kind, ())) for result in results.values())):
            row = first[kind][index]["name"]
            label = f"left out, and kept in {row}" if kind == "kept" else row
            for model, result in results.items():
                shares = result[kind][index]["shares"]
                cells = " | ".join(
                    str(Share(**shares[name])) if name in shares else "-" for name in ATTRIBUTES
                )
                yield f"| {label} | {model} | {cells} |"
    yield ""
    yield "| last 10 s / first 10 s | model | median | range | within 15 % |"
    yield "|---|---|---|---|---|"
    for index, ratio in enumerate(first["ratios"]):
        for name, result in results.items():
            one = result["ratios"][index]
            span = f"{one['low']:.2f} - {one['high']:.2f}"
            cells = f"{one['median']:.2f} | {span} | {Share(**one['within'])}"
            yield f"| {ratio['name']} | {name} | {cells} |"


def main(arguments: Sequence[str]) -> int:
    """Write the table into its page."""
    page, *rest = map(str, arguments or [""])
    pairs = [argument.partition("=")[::2] for argument in rest]
    if not pairs or not all(path for _, path in pairs):
        print(__doc__, file=sys.stderr)
        return 2
    results: dict[str, Result] = {}
    for name, path in pairs:
        results[name] = json.loads(Path(path).read_text()) | results.get(name, {})
    before, _, behind = Path(page).read_text().partition(BEGIN)
    after = behind.partition(END)[2]
    table = "\n".join(lines(results))
    Path(page).write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
