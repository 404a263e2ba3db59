"""Copies of whole slots: store, fork, and the gathered KV that torch's attention needs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.library import custom_op

from afstream_kernels import reference
from afstream_kernels.dispatch import AnyBackend, resolve


def copy_slots(
    keys: Tensor,
    values: Tensor,
    to_keys: Tensor,
    to_values: Tensor,
    sources: Sequence[int],
    targets: Sequence[int],
    shift: tuple[Tensor, Tensor] | None = None,
    *,
    backend: AnyBackend = None,
) -> None:
    """Copy slots of all layers, keys and values, into slots of other buffers, in one launch.

    Args:
        keys: [L, B, N, R, H, D] contiguous; values likewise.
        values: see keys.
        to_keys: [L, B, M, R, H, D] contiguous, of any float dtype, changed in place;
            to_values likewise. It may be `keys` itself, where no slot is both source and target.
        to_values: see to_keys.
        sources: P slots to copy.
        targets: P slots to copy them to, all different.
        shift: tables [P, D / 2] from `rope_shift_tables` by which the keys are moved in time.
        backend: a `Backend` chosen before, or its name; see `choose_backend`.

    Raises:
        ValueError: sources and targets differ in number, or the buffers in more than slots.
    """
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources and {len(targets)} targets; as many are needed")
    if keys.shape[:2] != to_keys.shape[:2] or keys.shape[3:] != to_keys.shape[3:]:
        raise ValueError(
            f"keys are {tuple(keys.shape)} and their target {tuple(to_keys.shape)};"
            " only the number of slots (third) may differ"
        )
    if not sources:
        return
    if resolve(backend, keys).fused:
        cos, sin = shift or (None, None)
        _copy(keys, values, to_keys, to_values, sources, targets, cos, sin)
    else:
        reference.copy_slots(keys, values, to_keys, to_values, sources, targets, shift)


@custom_op("afstream::copy_slots", mutates_args={"to_keys", "to_values"})
def _copy(
    keys: Tensor,
    values: Tensor,
    to_keys: Tensor,
    to_values: Tensor,
    sources: Sequence[int],
    targets: Sequence[int],
    cos: Tensor | None,
    sin: Tensor | None,
) -> None:
    from afstream_kernels.triton import slots

    slots.copy_slots(keys, values, to_keys, to_values, sources, targets, cos, sin)


@_copy.register_fake
def _(
    keys: Tensor,
    values: Tensor,
    to_keys: Tensor,
    to_values: Tensor,
    sources: Sequence[int],
    targets: Sequence[int],
    cos: Tensor | None,
    sin: Tensor | None,
) -> None:
    del keys, values, to_keys, to_values, sources, targets, cos, sin
