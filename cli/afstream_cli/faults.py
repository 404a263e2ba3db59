"""What becomes of an error that ends a command: a sentence, an exit code, and perhaps a report."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from afstream.errors import AfstreamError, reason_of
from afstream.film.versions import package_version

USER_ERROR = 2
OWN_FAULT = 1

LIBRARIES = (
    *("afstream", "torch", "numpy", "av", "pillow", "typer", "rich", "safetensors"),
    *("transformers", "diffusers", "triton"),
)
# What torch says instead of raising an error of its own kind.
NO_MEMORY = ("can't allocate memory", "not enough memory")


def explain(error: Exception, command: Sequence[str]) -> tuple[int, str]:
    """The exit code for an error, and the sentence to show; writes a report where it is our fault.

    Args:
        error: what ended the command.
        command: the words of the command line.
    """
    if isinstance(error, AfstreamError):
        return USER_ERROR, str(error)
    if is_out_of_memory(error):
        return USER_ERROR, (
            "memory ran out; close other programs, or ask for less: a smaller --size or --scale,"
            " or --gpu-memory to plan for less"
        )
    if isinstance(error, OSError):
        reason = reason_of(error)
        what = f" ({reason}: {error.filename})" if error.filename else f" ({reason})"
        cause = f"stopped because the system refused something{what}"
    else:
        text = " ".join(str(error).split())
        cause = (
            f"stopped because of a fault of its own ({type(error).__name__}"
            f"{': ' if text else ''}{text[:200]})"
        )
    path = write_report(error, command)
    if path is None:
        return OWN_FAULT, f"{cause}; AFSTREAM_TRACEBACK=1 shows where"
    return OWN_FAULT, f"{cause}; a report is in {path}; please attach it to a bug report"


def is_out_of_memory(error: Exception) -> bool:
    """Whether the host or the device had no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def write_report(error: Exception, command: Sequence[str]) -> Path | None:
    """Write a report that only the user can read; None where no place takes it."""
    text = report(error, command)
    for place in (state_folder, tempfile.gettempdir):
        try:
            folder = Path(place())
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A new file of mode 0600, whatever others have put into the folder.
            number, name = tempfile.mkstemp(prefix="afstream-", suffix=".txt", dir=folder)
            with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        # `expanduser` raises RuntimeError where there is no home.
        except (OSError, RuntimeError):
            continue
        return Path(name)
    return None


def state_folder() -> Path:
    """Where reports go: `$XDG_STATE_HOME/afstream/reports`."""
    home = os.environ.get("XDG_STATE_HOME")
    base = Path(home) if home else Path("~/.local/state").expanduser()
    return base / "afstream" / "reports"


def report(error: Exception, command: Sequence[str]) -> str:
    """The traceback, versions, machine and command line; no environment variables."""
    lines = [
        f"afstream {package_version()} stopped because of {type(error).__name__}",
        "",
        f"command: {shlex.join(command)}",
        f"python: {sys.version.splitlines()[0]}",
        f"platform: {platform.platform()}",
        *(f"{name}: {package_version(name)}" for name in LIBRARIES),
        "",
        *traceback.format_exception(error),
    ]
    return "\n".join(line.rstrip("\n") for line in lines) + "\n"
