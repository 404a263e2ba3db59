"""Whether what was found makes a model together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from afstream.checkpoints.findings import BACKBONES, FOLDERS, Finding, Missing, lacking
from afstream.checkpoints.weights import shapes_of

# what generate takes as it is; a text encoder or a tokenizer must lie in a folder
GIVEN_ALONE = (*FOLDERS, *BACKBONES, "pocket model", "Wan VAE", "tiny VAE")
STUDENTS = (
    "gdhe17/Self-Forcing, zhuhz22/Causal-Forcing, Efficient-Large-Model/LongLive-1.3B or"
    " KlingTeam/MemFlow on Hugging Face, or vivoCameraResearch/Anchor-Forcing on GitHub"
)
PLAIN = f"a plain Wan2.1 makes no good video in few steps; a student does: {STUDENTS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What several findings make together.

    Attributes:
        missing: what generating with all of them still needs.
        remarks: what fits and what does not, a sentence each.
    """

    missing: tuple[Missing, ...]
    remarks: tuple[str, ...]


def judge(findings: Sequence[Finding]) -> Together:
    """See what several findings make together, as generate would take them."""
    usable = [one for one in findings if one.kind in GIVEN_ALONE and one.supported]
    given = [one for one in usable if one.kind in BACKBONES]
    folders = [one for one in usable if one.kind in FOLDERS]
    base = next((one for one in (*given, *folders) if one.weights), None)
    remarks = [
        *_too_many("models", folders),
        *_too_many("students", given),
        *_text_remarks(given, folders),
        *(_fit(one, base) for one in findings if one.lora),
        *(f"{one.path} is not supported" for one in findings if not one.supported),
    ]
    if folders and not given and all(is_plain(one) for one in folders):
        remarks.append(PLAIN)
    provided = {piece for one in usable for piece in one.provides}
    missing = lacking(provided, base.size if base else "")
    return Together(missing=missing, remarks=tuple(remarks))


def is_plain(folder: Finding) -> bool:
    """Whether the backbone of a folder is no student."""
    return folder.manifest is None or "student" not in folder.manifest.made_from


def _too_many(word: str, found: Sequence[Finding]) -> list[str]:
    names = " and ".join(str(one.path) for one in found)
    return [f"these are {len(found)} {word}, and generate takes one: {names}"] * (len(found) > 1)


def _text_remarks(given: Sequence[Finding], folders: Sequence[Finding]) -> list[str]:
    """Students that cannot read what a folder's text encoder writes."""
    return [
        f"{one.path} reads text embeddings of {one.backbone.text_dim} values, {folder.path} is made"
        f" for {folder.backbone.text_dim}: they do not fit"
        for one in given
        for folder in folders
        if one.backbone and folder.backbone and one.backbone.text_dim != folder.backbone.text_dim
    ]


def _fit(finding: Finding, base: Finding | None) -> str:
    """Whether a LoRA fits what it would be added to."""
    if finding.lora is None or base is None:
        return f"{finding.path} has nothing here to be added to"
    misfit = finding.lora.misfit(shapes_of(base.weights))
    return f"{misfit} (here {base.path})" if misfit else f"LoRA {finding.path} fits {base.path}"
