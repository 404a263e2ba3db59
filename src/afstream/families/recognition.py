"""Which public students files are, told from their names alone; no file is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """How a family's files are called where they are published.

    Attributes:
        preset: its name.
        students: file names of the student.
        folder: the folder that they lie in, where the file name alone says too little.
        lora: file name of the LoRA.
        complete: whether the student is one without the LoRA.
        entries: one of these must be in the student's file.
    """

    preset: str
    students: tuple[str, ...]
    folder: str = ""
    lora: str = ""
    complete: bool = True
    entries: tuple[str, ...] = ("generator", "generator_ema")

    def fits(self, student: PurePath, loras: Sequence[PurePath]) -> bool:
        """Whether these are the files, and no others."""
        wanted = [self.lora] if loras or not self.complete else []
        return (
            student.name in self.students
            and [lora.name for lora in loras] == wanted
            and all(self.folder in ("", _folder(path)) for path in (student, *loras))
        )


PUBLISHED = (
    Published(
        preset="self-forcing",
        students=(
            "self_forcing_dmd.pt",
            "self_forcing_sid.pt",
            "self_forcing_sid_v2.pt",
            "self_forcing_gan.pt",
        ),
    ),
    Published(preset="causal-forcing", students=("causal_forcing.pt",), folder="chunkwise"),
    Published(preset="longlive", students=("longlive_base.pt",), lora="lora.pt"),
    Published(
        preset="memflow", students=("base.pt",), folder="memflow", lora="lora.pt", complete=False
    ),
    Published(
        preset="anchor-forcing",
        students=("base.pt",),
        folder="anchorforcing",
        lora="final.pt",
        complete=False,
    ),
    Published(
        preset="krea-realtime", students=("krea-realtime-video-14b.safetensors",), entries=()
    ),
)
# of LongLive, MemFlow and Anchor Forcing alike
PUBLISHED_LORA_RANK = 256


def recognise(
    file_names: Sequence[str],
    *,
    entries: Sequence[str] = (),
    lora_ranks: Sequence[int] = (),
) -> str | None:
    """The preset for files as they are published; None when that is not certain.

    What it rests on, file and folder names being those of the families' own download commands:

    - Self-Forcing: `self_forcing_dmd.pt`, `_sid`, `_sid_v2` or `_gan`; the 10-second file and
      `ode_init.pt` are not among them, the one's window being unknown, the other no student;
    - Causal-Forcing: `chunkwise/causal_forcing.pt`; `framewise/` has a file of the same name;
    - LongLive: `longlive_base.pt`, alone or with `lora.pt`;
    - MemFlow: `base.pt` with `lora.pt`, Anchor Forcing: `base.pt` with `final.pt`, each in the
      folder of its repository, because these names say nothing alone;
    - Krea realtime: `krea-realtime-video-14b.safetensors`.

    Another LoRA beside them may have been tuned for another window, so it leads to None; so do a
    rank other than the published 256 and a student's file without `generator`. Wrappers in the
    weights' names (`_fsdp_wrapped_module.`) tell no family from another, and are not asked for.

    Args:
        file_names: the student's path, then those of the LoRAs; the files are not looked at.
        entries: top-level names in the student's file; empty when not known.
        lora_ranks: of the LoRAs; empty when not known.
    """
    if not file_names or any(rank != PUBLISHED_LORA_RANK for rank in lora_ranks):
        return None
    student, *loras = map(PurePath, file_names)
    for published in PUBLISHED:
        known = not entries or not published.entries or set(entries) & set(published.entries)
        if known and published.fits(student, loras):
            return published.preset
    return None


def recognise_among(paths: Sequence[str]) -> str | None:
    """The preset for files in any order, with others among them; None when not certain."""
    files = [str(Path(path).absolute()) for path in paths]
    names = {name for one in PUBLISHED for name in (*one.students, one.lora)}
    known = [file for file in files if PurePath(file).name in names]
    # a student's name may also be that of no LoRA
    found = {
        name
        for index, student in enumerate(known)
        if (name := recognise([student, *known[:index], *known[index + 1 :]]))
    }
    return found.pop() if len(found) == 1 else None


def _folder(path: PurePath) -> str:
    """The name of a file's folder, or of the repository in a model hub's cache, folded."""
    folder = path.parent
    if folder.parent.name == "snapshots":
        folder = folder.parent.parent
    return folder.name.rpartition("--")[2].lower().replace("-", "").replace("_", "")
