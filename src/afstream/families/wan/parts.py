"""Parts of a Wan model that were found alone, checked as they are when a model is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from afstream.checkpoints.findings import Finding
from afstream.checkpoints.kinds import Kind
from afstream.errors import CheckpointError, ConfigError
from afstream.families.wan.decoders import open_decoder
from afstream.families.wan.text import text_source
from afstream.families.wan.tokenizer import read_tokenizer

META = "meta"


def _decoder(path: Path) -> object:
    return open_decoder(path, device=META)


CHECKS: dict[Kind, Callable[[Path], object]] = {
    "Wan VAE": _decoder,
    "tiny VAE": _decoder,
    "text encoder": lambda path: text_source(path).check(),
    "tokenizer folder": read_tokenizer,
}


def with_fault(finding: Finding) -> Finding:
    """A finding with why opening a model would refuse it; no weights are read.

    Where a package that this takes is not installed, a note says so.
    """
    check = CHECKS.get(finding.kind)
    try:
        if check is not None:
            check(finding.path)
    except CheckpointError as error:
        return replace(finding, fault=str(error))
    except ConfigError as error:
        return replace(finding, notes=(*finding.notes, f"it was not checked: {error}"))
    return finding
