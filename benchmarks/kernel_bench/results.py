"""Where results are kept: one line of JSON for each run."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afstream.errors import OutputError

RESULTS_FILE = Path(__file__).resolve().parents[1] / "results" / "kernels.jsonl"


def check_appendable(path: Path) -> None:
    """Make sure that a line can be appended to a file, and make its parent folders.

    Raises:
        OutputError: it cannot.
    """
    with _told_in_a_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        path.open("a").close()
        if not existed:
            path.unlink()


def append_line(path: Path, data: dict[str, Any]) -> None:
    """Append data as one line of JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    line = json.dumps(data, allow_nan=False) + "\n"
    with _told_in_a_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)


@contextmanager
def _told_in_a_sentence(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write {path} ({reason}); choose another path") from error
