"""What distribution matching in long rollouts did to the pocket model, as one table.

    python benchmarks/realignment.py NAME=FILE.json NAME=FILE.json...

Reads results of `pocket_quality.py` and writes `docs/realignment.md` between its two markers; no
figure is typed by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "realignment.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
ATTRIBUTES = ("colour", "shape", "motion", "background")

Result = Mapping[str, Any]


def lines(results: Mapping[str, Result]) -> Iterator[str]:
    """The table: for each window, a row a model."""
    yield f"| read | model | {' | '.join(ATTRIBUTES)} |"
    yield f"|---|---|{'---|' * len(ATTRIBUTES)}"
    for kind in ("steady", "switch", "long"):
        for index, row in enumerate(next(iter(results.values()))[kind]):
            for name, result in results.items():
                shares = result[kind][index]["shares"]
                cells = " | ".join(share(shares[attribute]) for attribute in ATTRIBUTES)
                yield f"| {row['name']} | {name} | {cells} |"
    yield ""
    yield "| last 10 s / first 10 s | model | median | range | within 15 % |"
    yield "|---|---|---|---|---|"
    for index, ratio in enumerate(next(iter(results.values()))["ratios"]):
        for name, result in results.items():
            one = result["ratios"][index]
            span = f"{one['low']:.2f} - {one['high']:.2f}"
            cells = f"{one['median']:.2f} | {span} | {share(one['within'])}"
            yield f"| {ratio['name']} | {name} | {cells} |"


def share(found: Mapping[str, int]) -> str:
    """In percent, with the numbers behind it."""
    right, of = found["right"], found["of"]
    return f"{100 * right / of:.1f} % ({right}/{of})" if of else "-"


def main(arguments: Sequence[str]) -> int:
    """Write the table into its page."""
    pairs = [argument.partition("=")[::2] for argument in arguments]
    if not pairs or not all(path for _, path in pairs):
        print(__doc__, file=sys.stderr)
        return 2
    results = {name: json.loads(Path(path).read_text()) for name, path in pairs}
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join(lines(results))
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
