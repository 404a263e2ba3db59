"""Signals that end a run: Ctrl-C, SIGTERM, and SIGHUP of a terminal that was closed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType, TracebackType

# Windows has no SIGHUP.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# What a shell adds to the number of the signal that ended a command.
SIGNAL_EXIT = 128

Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """A signal ended the run, as Ctrl-C does.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def stop_code(error: KeyboardInterrupt) -> int:
    """The exit code of a run that a signal ended."""
    return SIGNAL_EXIT + (error.number if isinstance(error, Stopped) else signal.SIGINT)


class Interruption:
    """Notes the first signal, so that a run ends cleanly; the second one interrupts.

    Attributes:
        signal: number of the signal, None before there was one.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> Interruption:
        self._handling = handling(self._note)
        self._handling.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handling.__exit__(kind, error, traceback)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise Stopped(number)
        self.signal = number


def unhandled() -> None:
    """Let further signals end the process at once, without a word."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def stopped_like_ctrl_c() -> Generator[None, None, None]:
    """Make a signal a KeyboardInterrupt inside the block, so that half-made files are removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with handling(stop):
        yield


@contextmanager
def handling(handler: Handler) -> Generator[None, None, None]:
    """Handle the signals inside the block.

    Those that the parent process had ignored stay so: `nohup` and background jobs rely on it.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in ours:
            # None stands for a handler that Python did not set and cannot set again.
            signal.signal(number, before[number] or signal.SIG_DFL)
