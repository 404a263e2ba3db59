"""Saved states beside a film: how often, and which of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from afstream.film.states import StateStore


def test_saving_takes_a_small_share_of_the_time(tmp_path: Path):
    now = 0.0

    def save(path: Path) -> SimpleNamespace:
        nonlocal now
        now += 1.0
        path.touch()
        return SimpleNamespace(num_bytes=0)

    store = StateStore(tmp_path / "film.state", clock=lambda: now)
    stream: Any = SimpleNamespace(state_bytes=1000, save=save)
    # expected to take 10 s, from what a disk takes
    large: Any = SimpleNamespace(state_bytes=2_000_000_000)
    due: list[tuple[bool, bool]] = []
    for now in (4.9, 5.1, 499.0, 501.0):  # noqa: B007
        due.append((store.is_due(stream), store.is_due(large)))
    assert due == [(False, False), (True, False), (True, False), (True, True)]
    store.save(stream, 3)
    began = now
    for now in (began + 49.0, began + 51.0):
        due.append((store.is_due(stream), now > began + 50))
    assert due[-2:] == [(False, False), (True, True)]


def test_states_after_a_chunk_are_removed(tmp_path: Path):
    for name in ("chunk-000002.safetensors", "chunk-000004.safetensors", "chunk-9.txt"):
        (tmp_path / name).touch()
    StateStore(tmp_path).keep_until(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chunk-000002.safetensors",
        "chunk-9.txt",
    ]
