"""The way to a model's folder from one around it: a hub's cache, ComfyUI's own folder, a parent.

A hub's cache has `models--OWNER--NAME` folders with a folder of links for each revision in
`snapshots/`; `refs/main` names the revision that was fetched last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from afstream.bounded import read_bounded
from afstream.checkpoints.files import read_json
from afstream.checkpoints.kinds import PIECES, Piece
from afstream.checkpoints.layouts import WanFolder, layout_of
from afstream.checkpoints.names import CONFIG, VAE_CLASS
from afstream.errors import AfstreamError, CheckpointError
from afstream.text import some_of

REPOSITORY = "models--*"
SNAPSHOTS, MAIN = "snapshots", Path("refs", "main")
MOST_REF_BYTES = 256
# what ComfyUI's folder, and a repository of files for it, call the folder with the models
FOR_COMFYUI = ("models", "split_files")
# folders that are looked into for the way in, and how deep
MOST_FOLDERS, DEPTH = 500, 2


def find_folder(path: Path, wanted: Sequence[Piece] = PIECES) -> WanFolder | None:
    """The model folder at a path, or the only one in a hub's cache there; None without any.

    Raises:
        CheckpointError: there are several to choose from, or some deeper down; names them.
        OSError: it is out of reach.
    """
    if found := layout_of(path, wanted):
        return found
    inner = [folder for folder in _inside(path) if is_wan(folder)]
    if len(inner) == 1:
        return layout_of(inner[0], wanted)
    below = islice(_below(path, DEPTH), MOST_FOLDERS) if path.is_dir() else ()
    ways = [str(folder) for folder in inner or below if is_wan(folder)]
    if len(ways) == 1:
        raise CheckpointError(f"{path} holds no model itself; give {ways[0]}, which is one")
    if ways:
        raise CheckpointError(
            f"{path} holds no model itself; give one of those in it: {some_of(ways)}"
        )
    return None


def is_wan(path: Path) -> bool:
    """Whether a folder has a layout and says nothing of models other than Wan's."""
    try:
        found = layout_of(path)
        if found is None:
            return False
        # a repository of one piece alone
        own = path / CONFIG
        if own.is_file() and read_json(own).get("_class_name") == VAE_CLASS:
            return False
        if found.layout != "diffusers":
            return "Wan" in found.family
        configs = [path / name / CONFIG for name in ("transformer", "vae")]
        names = [read_json(one).get("_class_name", "") for one in configs if one.is_file()]
        return any("Wan" in str(name) for name in names)
    except (AfstreamError, OSError):
        return False


def _inside(path: Path) -> list[Path]:
    """Folders that a path stands for: of a hub's cache the revisions, of ComfyUI's its models."""
    if path.name == SNAPSHOTS:
        return _revisions(path.parent)
    if (path / SNAPSHOTS).is_dir():
        return _revisions(path)
    repositories = [one for one in _folders(path.glob(REPOSITORY)) if (one / SNAPSHOTS).is_dir()]
    inner = [one for repository in repositories for one in _revisions(repository)]
    return inner or [path / name for name in FOR_COMFYUI if (path / name).is_dir()]


def _revisions(repository: Path) -> list[Path]:
    """The revision that a repository's `refs/main` names, or else all that are there."""
    snapshots = repository / SNAPSHOTS
    try:
        main = snapshots / read_bounded(repository / MAIN, MOST_REF_BYTES).decode().strip()
        if main.parent == snapshots and main.is_dir():
            return _with_models([main])
    except (OSError, ValueError):
        pass
    return _with_models(_folders(snapshots.iterdir()))


def _with_models(folders: Iterable[Path]) -> list[Path]:
    """Folders, each with the one in it where the files lie that ComfyUI reads."""
    return [one for folder in folders for one in (folder, folder / FOR_COMFYUI[1]) if one.is_dir()]


def _below(path: Path, depth: int) -> Iterator[Path]:
    """Folders below a path; of those that are models nothing inside."""
    for folder in _folders(path.iterdir()):
        yield folder
        if depth > 1 and layout_of(folder) is None:
            yield from _below(folder, depth - 1)


def _folders(paths: Iterable[Path]) -> list[Path]:
    """The folders among some paths, in order; none that are hidden."""
    found = (one for one in paths if not one.name.startswith(".") and one.is_dir())
    return sorted(islice(found, MOST_FOLDERS))
