"""Published models that afstream runs: where they are, and what their files are called.

Presets, the hints of `afstream inspect`, `afstream download` and docs/models.md all take the names
from here. They were read from the projects' own download commands and configs, or from those of
others; where neither was found, the row says so. Sizes and licences are not here: the hub says
them, as they are on the day of the download.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

from afstream.errors import ConfigError

Content = Literal[
    "VAE", "tiny VAE", "text encoder", "tokenizer", "settings", "backbone", "student", "LoRA"
]
# where a model goes unless the user says otherwise
FOLDER = Path("models")
# the parts that a student runs with, and the student that is named as an example
PARTS, EXAMPLE = "wan-1.3b", "self-forcing"
# characters of a line of a command, without its indent and the backslash
WIDTH = 92


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its path there, and what it is."""

    path: str
    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One model, or the parts of one, as it is published.

    Attributes:
        name: what users type.
        repository: on Hugging Face, `owner/name`.
        files: what is needed.
        backbone: what training needs besides, and a student does not.
        presets: those that run the files; the first is the one for which the names stand.
        siblings: file names of other students in the repository that take the same settings.
        needs_folder: whether the student's file name alone says too little.
        doubt: what could not be verified; empty where nothing is in doubt.
        remark: whatever else one must know.
    """

    name: str
    repository: str
    files: tuple[HubFile, ...]
    backbone: tuple[HubFile, ...] = ()
    presets: tuple[str, ...] = ()
    siblings: tuple[str, ...] = ()
    needs_folder: bool = False
    doubt: str = ""
    remark: str = ""

    def paths(self, content: Content) -> tuple[PurePosixPath, ...]:
        """Paths in the repository of all files of one kind."""
        return tuple(PurePosixPath(one.path) for one in self.files if one.content == content)

    @property
    def students(self) -> tuple[str, ...]:
        """File names of the student, and of others that take the same settings."""
        return (*(path.name for path in self.paths("student")), *self.siblings)

    @property
    def loras(self) -> tuple[str, ...]:
        """File names of the LoRAs."""
        return tuple(path.name for path in self.paths("LoRA"))

    @property
    def folder(self) -> str:
        """The folder of the student, or else the repository, folded; empty if any folder will do.

        See `folded`.
        """
        if not self.needs_folder:
            return ""
        own = self.paths("student")[0].parent.name
        return folded(own or PurePosixPath(self.repository).name)

    def wanted(self, *, with_backbone: bool = False) -> tuple[HubFile, ...]:
        """The files to download.

        Raises:
            ConfigError: the backbone is asked for, and there is none.
        """
        if with_backbone and not self.backbone:
            owners = ", ".join(one.name for one in CATALOGUE.values() if one.backbone)
            raise ConfigError(
                f"{self.name} has no backbone beside its files; --backbone goes with {owners}"
            )
        return (*self.files, *(self.backbone if with_backbone else ()))

    def by_hand(self, folder: PurePath, *, with_backbone: bool = False) -> str:
        """The command of huggingface_hub that fetches the same files."""
        files = self.wanted(with_backbone=with_backbone)
        paths = (shlex.quote(one.path) for one in files)
        return _lines([f"hf download {self.repository}", *paths, _option("local-dir", folder)])

    def use(self, folder: PurePath, preset: str = "", *, parts: str = PARTS) -> str:
        """The command, or the option, that uses the files once they are in a folder.

        Args:
            folder: where they are; the parts of Wan2.1 are in a folder beside it.
            preset: one of the row's; its first unless given.
            parts: the name of their folder.
        """
        if tiny := self.paths("tiny VAE"):
            return _option("vae", folder / tiny[0])
        if not self.presets:
            return f"afstream download {EXAMPLE}"
        model = folder.parent / parts
        return _lines(
            [
                f"afstream generate --prompts timeline.txt {_option('model', model)}",
                *(_option("student", folder / path) for path in self.paths("student")),
                *(_option("lora", folder / path) for path in self.paths("LoRA")),
                f"--preset {preset or self.presets[0]}",
            ]
        )


def folded(name: str) -> str:
    """A folder's name without what people change in it: capitals, `-` and `_`."""
    return name.lower().replace("-", "").replace("_", "")


def _option(name: str, path: PurePath) -> str:
    return f"--{name} {shlex.quote(str(path))}"


def _lines(parts: Iterable[str]) -> str:
    """A command on as many lines as it takes, as a shell reads it; no part is broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 1 + len(part) <= WIDTH:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return " \\\n    ".join(lines)


# beside the backbone, the same in every repository of Wan2.1
WAN_PARTS = (
    HubFile("config.json", "settings"),
    HubFile("Wan2.1_VAE.pth", "VAE"),
    HubFile("models_t5_umt5-xxl-enc-bf16.pth", "text encoder"),
    *(
        HubFile(f"google/umt5-xxl/{name}", "tokenizer")
        for name in (
            "special_tokens_map.json",
            "spiece.model",
            "tokenizer.json",
            "tokenizer_config.json",
        )
    ),
)
STEM = "diffusion_pytorch_model"

CATALOGUE: dict[str, Published] = {
    row.name: row
    for row in (
        Published(
            name=PARTS,
            repository="Wan-AI/Wan2.1-T2V-1.3B",
            files=WAN_PARTS,
            backbone=(HubFile(f"{STEM}.safetensors", "backbone"),),
            remark="the parts that every student needs, of either size",
        ),
        Published(
            name="wan-14b",
            repository="Wan-AI/Wan2.1-T2V-14B",
            files=WAN_PARTS,
            backbone=(
                *(
                    HubFile(f"{STEM}-{number:05}-of-00006.safetensors", "backbone")
                    for number in range(1, 7)
                ),
                HubFile(f"{STEM}.safetensors.index.json", "backbone"),
            ),
            remark=f"{PARTS} serves students of 14B as well; this is for the backbone of 14B",
        ),
        # not the 10-second file, whose window is unknown, nor `ode_init.pt`, which is no student
        Published(
            name=EXAMPLE,
            repository="gdhe17/Self-Forcing",
            files=(HubFile("checkpoints/self_forcing_dmd.pt", "student"),),
            presets=("self-forcing",),
            siblings=(
                "self_forcing_sid.pt",
                "self_forcing_sid_v2.pt",
                "self_forcing_gan.pt",
            ),
        ),
        # `framewise/` has a file of the same name
        Published(
            name="causal-forcing",
            repository="zhuhz22/Causal-Forcing",
            files=(HubFile("chunkwise/causal_forcing.pt", "student"),),
            presets=("causal-forcing",),
            needs_folder=True,
        ),
        Published(
            name="longlive",
            repository="Efficient-Large-Model/LongLive-1.3B",
            files=(
                HubFile("models/longlive_base.pt", "student"),
                HubFile("models/lora.pt", "LoRA"),
            ),
            presets=("longlive", "longlive-infinity"),
        ),
        Published(
            name="memflow",
            repository="KlingTeam/MemFlow",
            files=(HubFile("base.pt", "student"), HubFile("lora.pt", "LoRA")),
            presets=("memflow",),
            needs_folder=True,
        ),
        Published(
            name="anchor-forcing",
            repository="young98/AnchorForcing",
            files=(HubFile("base.pt", "student"), HubFile("final.pt", "LoRA")),
            presets=("anchor-forcing",),
            needs_folder=True,
            doubt=(
                "the names are read from the public config; the repository's list of files was not"
                " found"
            ),
        ),
        Published(
            name="krea-realtime",
            repository="krea/krea-realtime-video",
            files=(HubFile("krea-realtime-video-14b.safetensors", "student"),),
            presets=("krea-realtime",),
            doubt=(
                "the names are those that other projects fetch; the public code's README names"
                " krea/krea-rt-14b"
            ),
        ),
        Published(
            name="tiny-vae",
            repository="lightx2v/Autoencoders",
            files=(HubFile("lighttaew2_1.safetensors", "tiny VAE"),),
            doubt="the names are those that other projects fetch",
            remark="decodes with far less memory and work, and less well",
        ),
    )
}
STUDENTS = tuple(row.name for row in CATALOGUE.values() if row.presets)


def published(name: str) -> Published:
    """The row of a name, or of a preset; an unknown one raises `ConfigError`."""
    for row in CATALOGUE.values():
        if name == row.name or name in row.presets:
            return row
    names = ", ".join(CATALOGUE)
    raise ConfigError(f"there is no model {name!r} to download; choose one of {names}")
