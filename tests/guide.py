"""The code that CONTRIBUTING.md shows, run by the tests as it stands there."""

import re
from pathlib import Path
from typing import Any

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"


def worked_example(title: str, **names: Any) -> dict[str, Any]:
    """Run the Python blocks of one section, one behind the other.

    Args:
        title: of the section, without its hashes.
        names: what the blocks find without importing it.

    Returns:
        All names that they leave.
    """
    text = GUIDE.read_text(encoding="utf-8")
    (section,) = re.findall(
        rf"^### {re.escape(title)}$(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE
    )
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert blocks, f"{title} shows no code"
    # as a module: dataclasses look for theirs
    scope = {"__name__": "builtins", **names}
    for block in blocks:
        exec(block, scope)
    return scope
