"""Where the pieces of a model lie, told from a spec: what opens, converts, counts and shows asks.

What a spec gives takes the place of what its folder has, so the folder may lack that, or be of
another family whose pieces are Wan2.1's too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from afstream.checkpoints.files import file_weights
from afstream.checkpoints.kinds import FAMILY, PIECES, WAN22_5B, Piece
from afstream.checkpoints.layouts import WanFolder
from afstream.checkpoints.layouts.entering import find_folder
from afstream.checkpoints.manifest import is_backbone_alone
from afstream.checkpoints.names import PIECES_TENSOR
from afstream.errors import CheckpointError
from afstream.spec import TINY_VAE, ModelSpec
from afstream.text import some_of

# of the command line, where a choice can be made
OPTIONS: Mapping[Piece, str] = {
    "backbone": "--student",
    "VAE": "--vae",
    "text encoder": "--text-encoder-file",
}
# the first that is there is taken
TINY_NAMES = ("taew2_1.safetensors", "taew2_1.pth", "lighttaew2_1.safetensors", "lighttaew2_1.pth")
TINY_FILES = "taew2_1.pth of the TAEHV project, or lighttaew2_1.pth of LightX2V"
# in ComfyUI's folder
TINY_FOLDER = "vae_approx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Where each piece of a model lies, a file or a folder.

    Attributes:
        folder: that of the model.
        given: pieces that the spec gives by a path.
        tokenizer: its folder, or a text encoder's file that holds a sentencepiece model.
    """

    folder: WanFolder
    given: Mapping[Piece, Path]
    tokenizer: Path

    def place(self, piece: Piece) -> Path:
        """Where a piece lies."""
        if piece == "tokenizer":
            return self.tokenizer
        return self.given.get(piece) or self.folder.place(piece)

    def taken(self) -> dict[Piece, str]:
        """The names of VAE and text encoder where they were chosen, by the spec or by content."""
        unusual = {**self.folder.unusual(), **self.given}
        chosen: tuple[Piece, ...] = ("VAE", "text encoder")
        return {piece: unusual[piece].name for piece in chosen if piece in unusual}


def resolve(spec: ModelSpec, wanted: Collection[Piece] = PIECES) -> Parts:
    """Find the pieces of a model, and check that those that are wanted are there.

    Args:
        spec: its name is a model's folder in any layout, or a folder around just one.
        wanted: pieces that are needed; others may be missing.

    Raises:
        CheckpointError: it is no Wan folder, pieces are missing, or there are several of one;
            says which, and what to do.
    """
    path = Path(spec.name)
    given = _given(spec)
    needed: list[Piece] = [piece for piece in PIECES if piece in wanted and piece not in given]
    try:
        folder = find_folder(path, needed)
        if folder is None:
            raise CheckpointError(no_model(path))
        check_family(folder, needed)
        for piece in needed:
            if choices := folder.choices(piece):
                raise CheckpointError(several(folder, piece, choices))
        if spec.vae == TINY_VAE and "VAE" in wanted:
            given["VAE"] = find_tiny(folder.path)
        tokenizer = _tokenizer(folder, given) if "tokenizer" in needed else None
        check_complete(folder, [one for one in needed if one != "tokenizer" or not tokenizer])
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be reached: {error.strerror}; give another folder"
        ) from error
    return Parts(folder=folder, given=given, tokenizer=tokenizer or folder.place("tokenizer"))


def no_model(path: Path) -> str:
    """What is said of a folder in which nothing is found."""
    return (
        f"{path} holds no Wan2.1 model; give a folder as it is downloaded: original (config.json,"
        " Wan2.1_VAE.pth, ...) or diffusers' (transformer/, vae/, ...), or ComfyUI's models/"
    )


def check_family(folder: WanFolder, needed: Sequence[Piece]) -> None:
    """See that the pieces that are needed of a folder are such as Wan2.1 text-to-video has.

    Raises:
        CheckpointError: its backbone or its VAE is another.
    """
    # of a converted backbone alone the manifest is read
    family = folder.family
    if family == FAMILY:
        return
    if "backbone" in needed:
        raise CheckpointError(
            f"{folder.path} describes {family}, not {FAMILY}; give a {FAMILY} model"
            f"{_beside(family)}"
        )
    if "VAE" in needed and family == WAN22_5B:
        raise CheckpointError(
            f"{folder.path} describes {family}, whose VAE is not Wan2.1's; give Wan2.1's with --vae"
            " (Wan2.1_VAE.pth or a vae/ folder), or another folder"
        )


def _beside(family: str) -> str:
    """What a folder of another family of Wan's may be used for."""
    if "Wan" not in family:
        return ""
    vae = ", and Wan2.1's VAE with --vae," if family == WAN22_5B else ""
    return f", or a student of one with --student{vae} beside this folder"


def several(folder: WanFolder, piece: Piece, choices: Sequence[Path]) -> str:
    """The sentence for a piece of which a folder has several."""
    names = some_of([str(path.relative_to(folder.path)) for path in choices])
    return (
        f"{folder.path} has several files for the {piece}: {names}; choose one with"
        f" {OPTIONS[piece]}"
    )


def check_complete(folder: WanFolder, needed: Sequence[Piece]) -> None:
    """See that pieces are in a folder; `CheckpointError` says which are not, and what to do."""
    missing = folder.missing(needed)
    if not missing:
        return
    if is_backbone_alone(folder.path):
        raise CheckpointError(
            f"{folder.path} holds a converted backbone alone; give it as the student, and a Wan2.1"
            " folder as the model"
        )
    again = "convert the model again, or " if folder.layout == "converted" else ""
    raise CheckpointError(
        f"the Wan2.1 folder {folder.path} ({folder.layout} layout) lacks"
        f" {', '.join(map(str, missing))}{_unread(folder)}; {again}add what is missing"
        f"{_otherwise(folder, needed)}"
    )


def _unread(folder: WanFolder) -> str:
    names = some_of([str(path.relative_to(folder.path)) for path in folder.unread])
    return f" (and {names} cannot be read)" if names else ""


def _otherwise(folder: WanFolder, needed: Sequence[Piece]) -> str:
    """Other ways to give what a folder lacks."""
    lacking: list[Piece] = [piece for piece in needed if not folder.has(piece)]
    if folder.layout == "converted":
        return ""
    ways = [f"the {piece} with {OPTIONS[piece]}" for piece in lacking if piece in OPTIONS]
    if folder.config is not None and "backbone" in lacking:
        there = (path.name for path in folder.config.glob("*.safetensors") if path.is_file())
        if names := some_of(sorted(there)):
            ways[ways.index("the backbone with --student")] = (
                f"the backbone as the student, if it is in one file ({names})"
            )
    if "tokenizer" in lacking and "text encoder" not in lacking:
        ways.append(f"with {OPTIONS['text encoder']} a file that holds its tokenizer, as ComfyUI's")
    return f", or give {' and '.join(ways)}" if ways else ""


def _given(spec: ModelSpec) -> dict[Piece, Path]:
    """The pieces that a spec gives; a tiny VAE still has to be found in the folder."""
    paths: dict[Piece, str | None] = {
        "backbone": spec.student,
        "VAE": spec.vae,
        "text encoder": spec.text_encoder_file,
    }
    return {piece: Path(path) for piece, path in paths.items() if path is not None}


def _tokenizer(folder: WanFolder, given: Mapping[Piece, Path]) -> Path | None:
    """The tokenizer's folder, or else the text encoder's file, if it holds one."""
    if folder.has("tokenizer"):
        return folder.place("tokenizer")
    text = given.get("text encoder") or folder.place("text encoder")
    return text if text.is_file() and PIECES_TENSOR in file_weights(text) else None


def find_tiny(folder: Path) -> Path:
    """The tiny VAE in a model folder, by its name in any case; TAEHV's own goes first.

    Raises:
        CheckpointError: there is none; says which to fetch and where to put it.
    """
    places = [place for place in (folder, folder / TINY_FOLDER) if place.is_dir()]
    files = [path for place in places for path in sorted(place.iterdir()) if path.is_file()]
    found = {path.name.lower(): path for path in reversed(files)}
    for name in TINY_NAMES:
        if name in found:
            return found[name]
    raise CheckpointError(
        f"the model folder {folder} has no tiny VAE; put {TINY_FILES}, into it, or give its path"
        " with --vae PATH"
    )
