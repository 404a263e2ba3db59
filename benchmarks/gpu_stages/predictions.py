"""What was expected of an H200 before anything was measured, beside what was found."""

from __future__ import annotations

from typing import Any, NamedTuple


class Prediction(NamedTuple):
    """A figure for 480x832, bfloat16, junction visible.

    Attributes:
        what: for people.
        unit: of all figures.
        predicted: from arithmetic, or None.
        aim: what we mean to reach, or None.
        way: rows of the chunk stage whose best counts; empty means all but the public way.
        figure: the row's entry.
    """

    what: str
    unit: str
    predicted: float | None
    aim: float | None
    way: str
    figure: str


CHUNK = (
    Prediction("one chunk, vendor attention, graphs", "ms", 276.0, 330.0, "sdpa", "chunk_ms"),
    Prediction("one chunk, own attention, graphs", "ms", 330.0, 330.0, "triton", "chunk_ms"),
    Prediction("one chunk, the public way", "ms", 590.0, None, "public", "chunk_ms"),
    Prediction("prompt switch complete", "ms", 143.0, 220.0, "", "recache_ms"),
)
PUBLIC_AIM = 2.0


def predictions(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each prediction with the best figure found, and the ratio to the public way.

    Those of single kernels stand in the rows of the bench stage.
    """
    rows: list[dict[str, Any]] = found.get("chunk", [])

    def best(way: str, figure: str) -> float | None:
        values = [
            row[figure]
            for row in rows
            if row[figure] is not None and row["name"].startswith(way or ("sdpa", "triton"))
        ]
        return round(min(values), 2) if values else None

    listed = [
        {
            "what": one.what,
            "unit": one.unit,
            "predicted": one.predicted,
            "aim": one.aim,
            "found": best(one.way, one.figure),
        }
        for one in CHUNK
    ]
    ours, public = best("", "chunk_ms"), best("public", "chunk_ms")
    ratio = round(public / ours, 2) if ours and public else None
    listed.append(
        {
            "what": "the public way takes as many times as long",
            "unit": "x",
            "predicted": round(590 / 276, 2),
            "aim": PUBLIC_AIM,
            "found": ratio,
        }
    )
    return listed
