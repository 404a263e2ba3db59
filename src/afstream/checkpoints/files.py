"""Files of models: settings in JSON; weights in one file or in shards, mapped into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from afstream.atomic import replace_file
from afstream.bounded import MAX_VALUES, MB, parse_json, read_bounded
from afstream.checkpoints.finite import LARGEST, check_finite, first_not_finite
from afstream.checkpoints.formats import READABLE, Format, format_of
from afstream.checkpoints.gguf_files import map_gguf
from afstream.checkpoints.quantised import ANOTHER, dequantised
from afstream.checkpoints.safetensors import (
    DTYPE_NAMES,
    UnreadDtypeError,
    map_tensors,
    read_header,
    write_checked,
)
from afstream.checkpoints.stored import Stored, form_of, parts_of
from afstream.checkpoints.torch_files import read_old_torch, read_torch
from afstream.checkpoints.wrappers import renamed, unwrapped
from afstream.errors import CheckpointError, OutputError
from afstream.validation import Checked, show_name, show_value, validated

C = TypeVar("C", bound=Checked)
Weights = dict[str, Tensor]

# weights of another shape that an error names
MOST_NAMED = 3
WEIGHTS_ALONE = "a file of weights alone"
SETTINGS_BYTES = 1 * MB
# ways out where a file of settings cannot be read, and where its content is not what it should be
AGAIN = "download it again"
REMEDIES: tuple[tuple[type[Exception], str], ...] = (
    (PermissionError, "make it readable"),
    (FileNotFoundError, "add that file"),
)
PUBLISHED = "give that file as it is published with the model"
READERS: dict[Format, Callable[[Path], Any]] = {
    "safetensors": map_tensors,
    "torch": read_torch,
    "old torch": read_old_torch,
    "gguf": map_gguf,
}


def read_weights(path: Path) -> Any:  # noqa: ANN401  a file may hold anything
    """Read a file of safetensors, of `torch.save` or GGUF as plain data, never running its code.

    Its first bytes tell which of them it is. The tensors are views of the file: nothing is read
    before it is used, except in the format of torch before 1.6.

    Raises:
        CheckpointError: the file is missing or no checkpoint.
    """
    try:
        if not path.is_file():
            raise _absent(path)
        return READERS[format_of(path)](path)
    except UnreadDtypeError as error:
        raise CheckpointError(f"{path} {error}; {ANOTHER}") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise _unreadable(path, str(error).partition("\n")[0]) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a safetensors file's header, `CheckpointError` if damaged; none elsewhere."""
    try:
        return read_header(path).metadata if format_of(path) == "safetensors" else {}
    except UnreadDtypeError as error:
        raise CheckpointError(f"{path} {error}; {ANOTHER}") from error
    except (ValueError, OSError) as error:
        raise _unreadable(path, str(error)) from error


def shapes_of(weights: Weights) -> dict[str, tuple[int, ...]]:
    """The shape of each weight."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def check_fit(module: nn.Module, weights: Weights, *, what: str) -> None:
    """See that weights have the names and shapes of a module's own.

    Raises:
        CheckpointError: says how many names are missing or unknown, and one of each, or names
            the first weights of another shape; or one is of whole numbers without a scale, or
            holds fewer values than its shape says.
    """
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    unknown = sorted(weights.keys() - wanted.keys())
    if missing or unknown:
        parts = [
            f"{len(names)} {word}, for example {show_name(names[0])}"
            for word, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise CheckpointError(
            f"{what} does not fit the model: {'; '.join(parts)}; give the weights of one whole"
            " model of this kind"
        )
    wrong = [name for name, value in wanted.items() if value.shape != weights[name].shape]
    if wrong:
        parts = [
            f"{show_name(name)} is {tuple(weights[name].shape)}, the model needs"
            f" {tuple(wanted[name].shape)}"
            for name in wrong[:MOST_NAMED]
        ]
        if len(wrong) > MOST_NAMED:
            parts.append(f"{len(wrong) - MOST_NAMED} more differ")
        raise CheckpointError(
            f"{what} does not fit the model: {'; '.join(parts)}; give weights of this model's size"
        )
    unscaled = [
        name
        for name, value in wanted.items()
        if value.is_floating_point() and not weights[name].is_floating_point()
    ]
    if unscaled:
        raise CheckpointError(
            f"{what} holds {show_name(unscaled[0])} as {form_of(weights[unscaled[0]])} without a"
            " scale, so nobody can tell its values; give the file that has the scales, or the one"
            " in bfloat16"
        )
    expanded = [name for name in wanted if any(map(_is_expanded, parts_of(weights[name])))]
    if expanded:
        raise CheckpointError(
            f"{what} holds fewer values for {expanded[0]} than its shape says; give whole weights"
        )


def load_into(module: nn.Module, weights: Weights, *, what: str) -> None:
    """Copy weights into a module.

    Raises:
        CheckpointError: `check_fit` refuses them, or they are not finite; the module is as it was.
    """
    check_fit(module, weights, what=what)
    check_finite(weights.items(), lambda name: what)
    module.load_state_dict(weights)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file with a checksum, whole or not at all; its folder is made.

    Raises:
        CheckpointError: a tensor holds values that are not finite; nothing is written.
        OutputError: the system refuses.
    """
    lost = first_not_finite(tensors.items(), bound=LARGEST)
    if lost is not None:
        raise CheckpointError(
            f"{path} is not written: {lost} holds values that are not finite, which no model can"
            " use; lower the learning rates and train again"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.of(path, error) from error
    with replace_file(path) as file:
        write_checked(
            file, {name: value.detach() for name, value in tensors.items()}, metadata or {}
        )


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read as a checkpoint: {reason}; {READABLE}")


def _absent(path: Path) -> CheckpointError:
    if path.is_dir():
        return CheckpointError(f"{path} is a folder; give a file of weights")
    return dangling(path) or CheckpointError(
        f"no checkpoint at {path}; give the path of an existing file"
    )


def dangling(path: Path) -> CheckpointError | None:
    """The error for a link to a file that is not there; None for anything else."""
    if path.exists() or not path.is_symlink():
        return None
    return CheckpointError(f"{path} is a link to {path.readlink()}, which is not there; {AGAIN}")


def read_json(
    path: Path,
    *,
    most_bytes: int = SETTINGS_BYTES,
    most_values: int = MAX_VALUES,
    what: str = "",
) -> dict[str, Any]:
    """Settings by name from a JSON file; anything else raises `CheckpointError`.

    `what` is what it should be, in words; a model's file of its name unless given.
    """
    try:
        content = parse_json(read_bounded(path, most_bytes).decode(), most_values=most_values)
    except (OSError, ValueError) as error:
        if lost := dangling(path):
            raise lost from error
        reason = error.strerror if isinstance(error, OSError) else str(error)
        wanted = what or f"a model's {path.name}"
        remedy = next((words for kind, words in REMEDIES if isinstance(error, kind)), AGAIN)
        raise CheckpointError(f"{path} cannot be read as {wanted}: {reason}; {remedy}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no settings by name; {PUBLISHED}")
    return content


def read_settings(path: Path, model: type[C], *, remedy: str = PUBLISHED) -> C:
    """Settings from a JSON file; `CheckpointError` where it says what is not allowed."""
    content = read_json(path)
    return validated(model, content, source=str(path), remedy=remedy, error=CheckpointError)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; out of reach it raises `CheckpointError`."""
    try:
        return path.is_dir()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be reached: {error.strerror}; give the path of a file or a folder"
        ) from error


def file_weights(path: Path) -> Weights:
    """Weights by name from one file, without what was put around them.

    They are views of it, or `Stored` where they stand there in another form.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or holds something else.
    """
    return plain_weights(read_weights(path), path)


def plain_weights(content: object, path: Path, *, wanted: str = WEIGHTS_ALONE) -> Weights:
    """What was read from a file as `file_weights` gives it; errors say what is wanted."""
    return dequantised(bare_weights(content, path, wanted=wanted), path)


def bare_weights(content: object, path: Path, *, wanted: str = WEIGHTS_ALONE) -> Weights:
    """The same as the file stores it, with scales as weights of their own."""
    return renamed(named_tensors(unwrapped(content, path), path, wanted=wanted), path)


def named_tensors(content: object, path: Path, *, wanted: str = WEIGHTS_ALONE) -> Weights:
    """What was read from a file, if it is weights by name; errors say what is wanted."""
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f"{path} holds {kind}, so it holds no weights by name; give {wanted}")
    if not content:
        raise CheckpointError(f"{path} holds no weights by name; give {wanted}")
    for name, value in content.items():
        if not isinstance(name, str):
            raise CheckpointError(
                f"{path} names a weight {show_value(name)}, which is no text; give {wanted}"
            )
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds {show_value(name)}, which is no tensor; give {wanted}"
            )
        check_plain(name, value, path)
    return content


def check_plain(name: str, value: Tensor, path: Path) -> None:
    """Raise `CheckpointError` for what no weight is.

    Such are sparse, quantized, nested and complex tensors, and those without values on the meta
    device.
    """
    plain = type(value) in (Tensor, Parameter, Stored) and value.layout is torch.strided
    if plain and value.dtype not in DTYPE_NAMES and not value.is_complex():
        raise CheckpointError(
            f"{path} holds {show_name(name)} as {form_of(value)}, a dtype that afstream does not"
            f" read; {ANOTHER}"
        )
    if not plain or value.is_meta or value.is_nested or value.is_complex():
        raise CheckpointError(
            f"{path} holds {show_value(name)} as a tensor of another kind than weights are; give"
            " plain weights"
        )


def _is_expanded(value: Tensor) -> bool:
    """Whether a small file says that one value stands for many, which take memory when loaded."""
    return not value.is_meta and value.untyped_storage().nbytes() < value.numel() * value.itemsize
