"""The one counter of memory: bytes of tensors, held or alive while real code runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

META = "meta"


class CannotCountError(Exception):
    """A model's layers cannot be run on the meta device, or are none that are known."""


@contextmanager
def library_call() -> Generator[None, None, None]:
    """Raise `CannotCountError` where a call into transformers fails on meta."""
    try:
        yield
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CannotCountError(str(error)) from error


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is active, for as long as they live.

    Storage that several tensors share counts once. Temporary memory that an operation allocates
    and frees internally is not seen. On the meta device nothing is computed or allocated.
    Tensors on one kind of device count; `peak` is the most bytes alive at once so far.
    """

    def __init__(self, device: str = META) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._device = device
        # by identity: torch keeps one object for a storage as long as it lives
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        given = kwargs or {}
        # a view of an older tensor, such as a weight, takes no new memory
        older = {id(x.untyped_storage()) for x in _tensors((args, tuple(given.values())))}
        result = func(*args, **given)
        for made in _tensors(result):
            storage = made.untyped_storage()
            if made.device.type == self._device and not {id(storage)} & (older | self._known):
                self._add(storage)
        return result

    def reset_peak(self) -> None:
        """Start a new peak from the bytes that are alive now."""
        self.peak = self.now

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that a call on the meta device has alive at once."""
    with LiveBytes() as live:
        call()
    return live.peak


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors; storage that several of them share counts once."""
    storages = {id(x.untyped_storage()): x.untyped_storage() for x in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def weights_of(part: object) -> list[Tensor]:
    """Parameters and buffers of a module, or of an object that holds modules and tensors."""
    if isinstance(part, nn.Module):
        return [*part.parameters(), *part.buffers()]
    found: list[Tensor] = []
    for value in vars(part).values():
        if isinstance(value, nn.Module):
            found += weights_of(value)
        elif isinstance(value, Tensor):
            found.append(value)
    return found


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for entry in value:
            yield from _tensors(entry)
