"""Pieces told by what files hold, whatever they are called."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from afstream.checkpoints.alone import identify_file
from afstream.checkpoints.kinds import Piece
from afstream.errors import CheckpointError

SUFFIXES = (".safetensors", ".sft", ".pth", ".pt", ".ckpt", ".bin", ".gguf")
# a decoder of Wan2.1 latents, which no model has as its own
TINY = "tiny VAE"
# of one folder; no one has as many models
MOST_FILES = 2000


def weight_files(files: Iterable[Path]) -> list[Path]:
    """Those of some paths that may be files of weights, by their suffixes, in order."""
    found = (path for path in files if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path, _ in zip(found, range(MOST_FILES), strict=False))


def by_content(
    files: Iterable[Path], wanted: Collection[Piece]
) -> tuple[dict[Piece, list[Path]], list[Path]]:
    """The files that can be each of the wanted pieces, and those that cannot be read."""
    found: dict[Piece, list[Path]] = {}
    unread: list[Path] = []
    for path in weight_files(files):
        try:
            finding = identify_file(path)
        except (CheckpointError, OSError):
            unread.append(path)
            continue
        for piece in finding.provides if finding.kind != TINY else ():
            if piece in wanted:
                found.setdefault(piece, []).append(path)
    return found, unread
