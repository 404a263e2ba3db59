"""Versions of the software in use."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version


def package_version(name: str = "afstream") -> str:
    """The installed version of a package, as its metadata has it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown (not installed)"


def versions() -> dict[str, str]:
    """The versions in a run record."""
    return {
        "afstream": package_version(),
        "torch": package_version("torch"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
