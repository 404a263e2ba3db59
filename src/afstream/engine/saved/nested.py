"""Nested values as plain data and a list of tensors: what a decoder keeps of a scene.

A tensor keeps its strides, because torch chooses algorithms, and with them the last bits of a
result, by how its inputs lie in memory.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

# a decoder's state nests two or three levels
MOST_LEVELS = 20
MAX_STRIDE = 2**48


def pack(value: object, tensors: dict[str, Tensor], *, module: str) -> Any:  # noqa: ANN401
    """A value as plain data that JSON holds exactly.

    Args:
        value: tensors, None, numbers and texts within tuples, lists, dicts, and those named tuples
            and dataclasses that a module has.
        tensors: its tensors are added, each as a view in the order of memory.
        module: the module's name.

    Raises:
        TypeError: it holds something else; names its type.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        order = sorted(range(value.ndim), key=lambda axis: -value.stride(axis))
        name = f"value.{len(tensors)}"
        tensors[name] = value.permute(order)
        shape, strides = list(value.shape), list(_dense_strides(value, order))
        return {"tensor": name, "device": value.device.type, "shape": shape, "strides": strides}
    if kind is dict:
        parts = [part for pair in cast("dict[object, object]", value).items() for part in pair]
        named = {"dict": None}
    elif kind in (tuple, list):
        parts = list(cast("Sequence[object]", value))
        named = {kind.__name__: None}
    else:
        names = _fields(kind)
        if names is None or _classes(module).get(kind.__name__) is not kind:
            raise TypeError(f"{kind.__module__}.{kind.__qualname__}")
        parts = [getattr(value, name) for name in names]
        named = {"class": kind.__name__}
    return {**named, "parts": [pack(part, tensors, module=module) for part in parts]}


class Unpacker(NamedTuple):
    """Makes again what `pack` was given.

    Attributes:
        tensors: those of the pack, by name.
        device: where tensors go that were on a device of its kind; all others go to the CPU.
        module: as `pack` was given it.
    """

    tensors: Mapping[str, Tensor]
    device: torch.device
    module: str

    def unpack(self, data: Any, level: int = 0) -> Any:  # noqa: ANN401
        """The value.

        Raises:
            ValueError: it is no pack, or one of other tensors or classes.
        """
        if data is None or type(data) in (bool, int, float, str):
            return data
        try:
            if "tensor" in data:
                return self._tensor(**data)
            if level == MOST_LEVELS:
                raise ValueError("it nests too deeply")
            parts = [self.unpack(part, level + 1) for part in data["parts"]]
            if "dict" in data:
                pairs = iter(parts)
                return {key: next(pairs) for key in pairs}
            if "class" in data:
                return _made(_classes(self.module)[data["class"]], parts)
            return list(parts) if "list" in data else tuple(parts)
        except (KeyError, TypeError, AttributeError, RuntimeError, StopIteration) as error:
            raise ValueError("it holds no nested values") from error

    def _tensor(
        self, tensor: str, device: str, shape: Sequence[int], strides: Sequence[int]
    ) -> Tensor:
        if device not in ("cpu", self.device.type):
            raise ValueError(f"it holds tensors of a {device} device")
        stored = self.tensors[tensor]
        sizes = [*shape, *strides]
        if any(type(size) is not int or not 0 <= size <= MAX_STRIDE for size in sizes):
            raise ValueError("sizes and strides are whole numbers")
        if math.prod(shape) != stored.numel() or not _is_dense(shape, strides):
            raise ValueError("a tensor lies otherwise than its strides say")
        made = torch.empty_strided(
            tuple(shape),
            tuple(strides),
            dtype=stored.dtype,
            device="cpu" if device == "cpu" else self.device,
        )
        return made.copy_(stored.reshape(-1).as_strided(tuple(shape), tuple(strides)))


def _made(kind: type[Any], parts: Sequence[Any]) -> Any:  # noqa: ANN401
    names = _fields(kind) or ()
    if len(names) != len(parts):
        raise TypeError(f"a {kind.__name__} has {len(names)} parts")
    return kind(**dict(zip(names, parts, strict=True)))


def _classes(module: str) -> dict[str, type[Any]]:
    """The named tuples and dataclasses of a module, its imports included; never imports one."""
    found = vars(sys.modules[module]) if module in sys.modules else {}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, type) and _fields(value) is not None
    }


def _fields(kind: type[Any]) -> tuple[str, ...] | None:
    """Names of the values that make one; None unless it is a named tuple or a dataclass."""
    if is_dataclass(kind):
        every = fields(kind)
        return tuple(one.name for one in every) if all(one.init for one in every) else None
    return getattr(kind, "_fields", None) if issubclass(kind, tuple) else None


def _dense_strides(tensor: Tensor, order: Sequence[int]) -> tuple[int, ...]:
    """A tensor's strides; without gaps and repeats, where it has such."""
    strides = list(tensor.stride())
    if not _is_dense(tensor.shape, strides):
        step = 1
        for axis in reversed(order):
            strides[axis], step = step, step * tensor.shape[axis]
    return tuple(strides)


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether each place in memory, up to the last one, is that of one value."""
    step = 1
    if 0 in shape:
        return True
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride != step:
                return False
            step *= size
    return True
