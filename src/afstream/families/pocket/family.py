"""The embedded model's family: its own small world at 64 x 64 pixels, trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from afstream.families.base import ModelFamily, Placement, VideoModel
from afstream.families.pocket.facts import FORMAT, GEOMETRY, KIND, LENGTHS, NAME, POCKET_PATH
from afstream.spec import ModelSpec

if TYPE_CHECKING:
    from afstream.checkpoints.findings import Finding
    from afstream.model.protocols import TextEncoder


class PocketFamily(ModelFamily):
    """Pocket model files; the one that comes with afstream is called `pocket`."""

    name = NAME
    given_as = f"{NAME!r} (built in), the path of a pocket model file (.safetensors)"
    format = FORMAT
    geometry = GEOMETRY
    lengths = LENGTHS

    def names(self, spec: ModelSpec) -> bool:
        """Whether it is the embedded model, or a file."""
        return spec.name == NAME or Path(spec.name).is_file()

    def identify(self, path: Path) -> Finding | None:
        """See `ModelFamily`: such a file says its kind in its metadata."""
        # as in `names`: the embedded one goes first
        file = POCKET_PATH if str(path) == NAME else path
        from afstream.checkpoints.files import read_metadata, read_weights  # noqa: PLC0415
        from afstream.checkpoints.findings import Finding  # noqa: PLC0415

        if not file.is_file() or read_metadata(file).get("kind") != KIND:
            return None
        weights, num_bytes = read_weights(file), file.stat().st_size
        return Finding(path=path, kind="pocket model", weights=weights, num_bytes=num_bytes)

    def check_prompt(self, text: TextEncoder, prompt: str) -> None:
        """Whether the model knows the words."""
        from afstream.families.pocket.text import PocketText  # noqa: PLC0415

        if isinstance(text, PocketText):
            text.read(prompt)

    def open(self, spec: ModelSpec, where: Placement, prompts: Sequence[str] = ()) -> VideoModel:
        """See `ModelFamily`."""
        from afstream.families.pocket.model import load_pocket  # noqa: PLC0415

        path = POCKET_PATH if spec.name == NAME else Path(spec.name)
        return load_pocket(path, self, where)


POCKET = PocketFamily()
