"""Errors that users can cause and fix.

Every message is one sentence or two: what was given, what is allowed, what to do.
The command line prints it and exits with code 2; a library user catches `AfstreamError`.
"""

from __future__ import annotations


class AfstreamError(Exception):
    """Base of every error that a user can cause and fix."""


class ConfigError(AfstreamError, ValueError):
    """A setting is impossible, or two settings disagree."""


class TimelineError(AfstreamError, ValueError):
    """A timeline cannot be read, or cannot be played.

    Attributes:
        source: name of the file or input; empty when the timeline was made in code.
        line: line of the fault, counted from 1; 0 when there is none.
        column: character in that line, counted from 1; 0 when there is none.
    """

    def __init__(self, message: str, *, source: str = "", line: int = 0, column: int = 0) -> None:
        place = f"{source}:{line}:{column}: " if line else f"{source}: " if source else ""
        super().__init__(place + message)
        self.source = source
        self.line = line
        self.column = column


class PromptError(AfstreamError, ValueError):
    """The model cannot understand a prompt."""


class CheckpointError(AfstreamError):
    """A model or checkpoint is missing, incomplete or of another layout."""


class DownloadError(AfstreamError):
    """Files cannot be fetched from the model hub, or are not what it says they are."""


class StreamError(AfstreamError):
    """A stream cannot go on; the chunks made so far are good."""


class OutputError(AfstreamError):
    """The output cannot be written."""

    @classmethod
    def of(cls, path: object, error: OSError) -> OutputError:
        """The error for a path that the system refuses."""
        return cls(f"cannot write {path} ({reason_of(error)}); choose another path")


class TrainingError(AfstreamError):
    """Training cannot go on."""


def reason_of(error: BaseException) -> str:
    """What an error says in a few words, such as "permission denied" where the system refuses."""
    said = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return said.lower() or type(error).__name__
