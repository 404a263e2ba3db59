"""Kinds of numbers in a recipe and what each may be, for `afstream.validation.Checked` tables."""

from typing import Annotated

from pydantic import Field

from afstream.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
# torch's and numpy's generators take no more than 64 bits, and the codec multiplies its seed
Seed = Annotated[int, Field(ge=0, le=10**9)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
# of a moving average: at 1 it would never move
Decay = Annotated[float, Field(ge=0, lt=1)]


def check_chunks(name: str, frames: int, chunk_frames: int) -> None:
    """Refuse a number of latent frames that is no whole number of chunks.

    Raises:
        ConfigError: it is none; `name` is that of the setting.
    """
    if frames % chunk_frames:
        raise ConfigError(f"{name} is {frames}; it must be a multiple of the chunk, {chunk_frames}")
