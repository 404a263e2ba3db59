"""Where results are kept: one line of JSON for each run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from afstream.errors import OutputError

FILE = "kernels.jsonl"
# From this file up to the checkout: kernels, measure, afstream, src.
CHECKOUT = Path(__file__).resolve().parents[4]


def results_file(checkout: Path = CHECKOUT) -> Path:
    """`benchmarks/results/kernels.jsonl` of the checkout that afstream runs from, if any.

    Without a checkout it is a file of the current folder.
    """
    if (checkout / "pyproject.toml").is_file() and (checkout / "benchmarks").is_dir():
        return checkout / "benchmarks" / "results" / FILE
    return Path(FILE)


def check_appendable(path: Path) -> None:
    """Make sure that a line can be appended to a file, and make its parent folders.

    Raises:
        OutputError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        with path.open("a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def append_line(path: Path, data: dict[str, Any]) -> None:
    """Append data as one line of JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    line = json.dumps(data, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    reason = (error.strerror or str(error)).lower()
    return OutputError(f"cannot write {path} ({reason}); choose another path")
