"""Anything Wan-like to one folder that loads without renaming, merging or rounding.

Everything is found and checked before the first byte is written. What is written grows beside its
place under another name, and gets its name when it is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from afstream.checkpoints import (
    BackboneSource,
    Manifest,
    read_manifest,
    read_student,
    resolve,
    sizes_of,
)
from afstream.checkpoints.configs import BackboneFile
from afstream.checkpoints.files import Weights
from afstream.checkpoints.finite import Giver, is_finite, not_finite
from afstream.checkpoints.manifest import (
    BACKBONE,
    BACKBONE_FILE,
    Part,
    WrittenFile,
    is_backbone_alone,
)
from afstream.checkpoints.safetensors import size_of, unchanged, write_safetensors
from afstream.checkpoints.stored import computed
from afstream.checkpoints.students import is_backbone_folder
from afstream.config import BackboneConfig
from afstream.errors import CheckpointError, ConfigError, OutputError, reason_of
from afstream.families.registry import identify
from afstream.families.wan.model import DETAILS, backbone_source, check_width, with_loras
from afstream.families.wan.text import SHARED, SHARED_AGAIN, text_source
from afstream.families.wan.tokenizer import copy_tokenizer, read_tokenizer
from afstream.families.wan.vae import vae_source
from afstream.paths import fetching
from afstream.spec import TINY_VAE, ModelSpec

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
BACKBONE_ONLY: tuple[Part, ...] = (BACKBONE,)
ALL_PARTS: tuple[Part, ...] = (BACKBONE, "vae", "text_encoder", "tokenizer")
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
TEXT_FILE = "text_encoder/model.safetensors"

# bytes written so far, and bytes in all
Tell = Callable[[int, int], None]


class WeightFile(NamedTuple):
    """A file of weights to write, and what happens to each weight on the way."""

    name: str
    weights: Weights
    giver: Giver
    change: Callable[[str, Tensor], Tensor] = unchanged

    def written(self, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        """A weight as it goes into the file; raises `CheckpointError` where it is not finite."""
        # once, not each time that it is looked at
        made = computed(self.change(name, value)).to(dtype)
        if not is_finite(made):
            raise not_finite(name, self.giver)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Everything that goes into a folder, checked and not yet read.

    Attributes:
        config: sizes of the backbone.
        dtype: of all weights in the folder; one of `DTYPES`.
        made_from: see `Manifest`.
        files: their names are paths in the folder.
        settings: by a part's folder, what writes its `config.json` into a folder.
        tokenizer: its folder or its text encoder's file; None for a backbone alone.
    """

    config: BackboneConfig
    dtype: str
    made_from: dict[str, str]
    files: tuple[WeightFile, ...]
    settings: dict[str, Callable[[Path], object]] = field(default_factory=dict)
    tokenizer: Path | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all files of weights."""
        return sum(size_of(file.weights, DTYPES[self.dtype]) for file in self.files)

    def write(self, out: Path, *, tell: Tell = lambda done, total: None) -> Manifest:
        """Write the folder; an interruption leaves nothing behind.

        Args:
            out: the folder; it must be empty or not exist.
            tell: called with the bytes that are written, and those of all.

        Raises:
            OutputError: it cannot be written.
            CheckpointError: a weight is not finite.
        """
        check_out(out)
        out = out.resolve()
        part = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            needed, free = self.num_bytes, shutil.disk_usage(out.parent).free
            if needed > free:
                raise OutputError(
                    f"{out} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; choose"
                    " another disk, or make room"
                )
            part.mkdir()
            manifest = self._fill(part, tell)
            if out.exists():
                out.rmdir()
            part.rename(out)
        except OSError as error:
            raise _unwritable(out, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return manifest

    def _fill(self, folder: Path, tell: Tell) -> Manifest:
        done, total = 0, self.num_bytes

        def count(written: int) -> None:
            nonlocal done
            done += written
            tell(done, total)

        for name, save in self.settings.items():
            (folder / name).mkdir()
            save(folder / name)
        if self.tokenizer:
            copy_tokenizer(self.tokenizer, folder / "tokenizer")
        made: dict[str, WrittenFile] = {}
        dtype = DTYPES[self.dtype]
        for file in self.files:
            path, change = folder / file.name, partial(file.written, dtype=dtype)
            digest = write_safetensors(path, file.weights, dtype=dtype, change=change, report=count)
            made[file.name] = WrittenFile(sha256=digest, bytes=path.stat().st_size)
        manifest = Manifest(
            backbone=BackboneFile(**asdict(self.config)),
            dtype=self.dtype,
            parts=ALL_PARTS if self.tokenizer else BACKBONE_ONLY,
            made_from=self.made_from,
            files=made,
        )
        manifest.write(folder)
        return manifest


def prepare(spec: ModelSpec) -> Conversion:
    """Find and check everything that a converted folder is made of.

    Args:
        spec: `name` is a Wan folder of any layout, a student's file or a backbone's; `student`,
            `loras` and `vae` as when it is generated with; `dtype` is bfloat16 unless given.

    Raises:
        ConfigError: unknown dtype, or an addition that needs a Wan folder.
        CheckpointError: something is missing, or does not fit.
    """
    dtype = spec.dtype or "bfloat16"
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    path = Path(spec.name)
    if _is_backbone_alone(path):
        return _backbone_alone(path, spec, dtype)
    return _whole(path, spec, dtype)


def check_out(out: Path) -> None:
    """See that a folder may be made at a path.

    Raises:
        OutputError: something is there already, or it is out of reach.
    """
    try:
        taken = out.is_symlink() or (
            out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None)
        )
    except OSError as error:
        raise _unwritable(out, error) from error
    if taken:
        raise OutputError(f"{out} is there already; choose a folder that is empty or not there")


def _unwritable(out: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {out} ({reason_of(error)}); choose another folder")


def _is_backbone_alone(path: Path) -> bool:
    """Whether it is a file, or a folder of nothing else."""
    remedy = "give a Wan2.1 folder, or a student's file"
    try:
        if not path.exists():
            raise CheckpointError(f"there is nothing at {path}; {remedy}{fetching(str(path))}")
        return not path.is_dir() or is_backbone_alone(path) or is_backbone_folder(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be reached: {error.strerror}; {remedy}") from error


def _backbone_alone(path: Path, spec: ModelSpec, dtype: str) -> Conversion:
    given = {"student": spec.student, "VAE": spec.vae, "text encoder": spec.text_encoder_file}
    for name, value in given.items():
        if value:
            raise ConfigError(f"a {name} was given with {path}; it needs a Wan2.1 folder as IN")
    found = read_student(path)
    what = f"student {path}"
    config = sizes_of(found.weights, what=what, declared=found.declared)
    before = dict(read_manifest(path).made_from) if found.origin else {"student": found.describe()}
    source, made_from = with_loras(what, config, found.weights, spec, before)
    files = (_backbone_file(source),)
    return Conversion(config=config, dtype=dtype, made_from=made_from, files=files)


def _whole(path: Path, spec: ModelSpec, dtype: str) -> Conversion:
    if spec.vae == TINY_VAE or (spec.vae and identify(Path(spec.vae)).kind == "tiny VAE"):
        raise ConfigError(
            f"the VAE {spec.vae} is a tiny one, which is not copied; leave it out, and give it"
            " to afstream generate"
        )
    parts = resolve(spec)
    source, made_from = backbone_source(parts, spec)
    folder, taken = parts.folder, parts.taken()
    made_from = {"folder": f"{folder.path.resolve().name} ({folder.layout} layout)", **made_from}
    made_from |= {name: taken[piece] for name, piece in DETAILS.items() if piece in taken}
    text, vae = text_source(parts.place("text encoder")), vae_source(parts.place("VAE"))
    backbone = _backbone_file(source)
    autoencoder, encoder = vae.check(), text.check()
    embedding = text.weights[SHARED]
    check_width(source, parts.place("text encoder"), embedding)
    read_tokenizer(parts.tokenizer, len(embedding))
    # the token embedding has two names, of which the file needs one
    names = [name for name in encoder.state_dict() if name != SHARED_AGAIN]
    return Conversion(
        config=source.config,
        dtype=dtype,
        made_from=made_from,
        files=(
            backbone,
            WeightFile(
                VAE_FILE,
                {name: vae.weights[name] for name in autoencoder.state_dict()},
                vae.giver,
            ),
            WeightFile(
                TEXT_FILE,
                {name: text.weights[name] for name in names},
                text.giver,
            ),
        ),
        settings={
            "vae": autoencoder.save_config,
            "text_encoder": encoder.config.save_pretrained,
        },
        tokenizer=parts.tokenizer,
    )


def _backbone_file(source: BackboneSource) -> WeightFile:
    """The backbone's weights in the order of its layers, LoRAs merged where models run."""
    backbone = source.check()
    ordered = {name: source.weights[name] for name, _ in backbone.named_parameters()}
    if not source.loras:
        return WeightFile(BACKBONE_FILE, ordered, source.giver, source.merged)
    # where `generate` merges them by default, so that both round alike
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def merged(name: str, weight: Tensor) -> Tensor:
        return source.merged(name, weight.to(device))

    return WeightFile(BACKBONE_FILE, ordered, source.giver, merged)
