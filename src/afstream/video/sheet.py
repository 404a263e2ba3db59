"""A contact sheet: one row of pictures per segment, under its time and prompt."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from afstream.errors import OutputError
from afstream.video.stride_sample import StrideSample

Frames = NDArray[np.uint8]

ROW_PX = 1280
GAP_PX = 8
MARGIN_PX = 32
CAPTION_PX = 46
ROW_GAP_PX = 30
CORNER_PX = 10
CARD_CORNER_PX = 24
FONT_PX = 22
PICTURE_HEIGHT_PX = 152
MAX_ROWS = 24

CARD = "#14171d"
TIME = "#f2b84b"
PROMPT = "#e8eaee"
QUIET = "#7d8592"
CLEAR = (0, 0, 0, 0)
# Shapes are drawn this much larger and shrunk, which smooths their edges.
SMOOTHING = 4


@dataclass(slots=True)
class _Row:
    """One segment: its caption and the pictures that represent it."""

    segment: int
    start_s: float
    prompt: str
    pictures: StrideSample[Image.Image]


class ContactSheet:
    """Collects a bounded number of pictures while a video is made, then draws them.

    Memory is constant: it keeps a few candidates for each of the newest 24 segments.

    Args:
        size: width and height of the frames that will come, px.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        width, height = size
        aspect = width / height
        self._columns = max(2, round((ROW_PX + GAP_PX) / (PICTURE_HEIGHT_PX * aspect + GAP_PX)))
        picture_width = (ROW_PX - GAP_PX * (self._columns - 1)) // self._columns
        self._picture = (picture_width, round(picture_width / aspect))
        self._rows: deque[_Row] = deque(maxlen=MAX_ROWS)
        self._segments = 0

    def add(self, frames: Frames, *, segment: int, prompt: str, start_s: float) -> None:
        """Add the frames [N, H, W, 3] of one chunk.

        Args:
            frames: the chunk's pictures.
            segment: number of its segment; a new number opens a new row.
            prompt: the segment's prompt.
            start_s: stream time of the first frame.
        """
        if not self._rows or self._rows[-1].segment != segment:
            self._rows.append(_Row(segment, start_s, prompt, StrideSample(self._columns)))
            self._segments += 1
        for frame in frames:
            self._rows[-1].pictures.offer(lambda frame=frame: self._thumbnail(frame))

    def save(self, path: str | Path) -> None:
        """Draw the sheet and write it as a PNG.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.draw().save(path, "png", optimize=True)
        except OSError as error:
            raise OutputError.of(path, error) from error

    def draw(self) -> Image.Image:
        """The sheet as a picture with rounded, transparent corners."""
        width, height = self._picture
        hidden = self._segments - len(self._rows)
        pitch = CAPTION_PX + height + ROW_GAP_PX
        card = Image.new(
            "RGB",
            (
                2 * MARGIN_PX + self._columns * (width + GAP_PX) - GAP_PX,
                2 * MARGIN_PX
                + pitch * len(self._rows)
                - ROW_GAP_PX
                + (CAPTION_PX if hidden else 0),
            ),
            CARD,
        )
        pen = ImageDraw.Draw(card)
        font = ImageFont.load_default(FONT_PX)
        mask = _rounded(self._picture, CORNER_PX)
        top = MARGIN_PX
        if hidden:
            pen.text((MARGIN_PX, top), f"{hidden} earlier segments", QUIET, font)
            top += CAPTION_PX
        for row in self._rows:
            time = clock(row.start_s)
            pen.text((MARGIN_PX, top), time, TIME, font)
            left = MARGIN_PX + pen.textlength(f"{time}   ", font)
            room = card.width - MARGIN_PX - left
            pen.text((left, top), _fitted(row.prompt, font, room), PROMPT, font)
            for column, picture in enumerate(row.pictures.picked()):
                at = (MARGIN_PX + column * (width + GAP_PX), top + CAPTION_PX)
                card.paste(picture.resize(self._picture, Image.Resampling.BICUBIC), at, mask)
            top += pitch
        sheet = Image.new("RGBA", card.size, CLEAR)
        sheet.paste(card, mask=_rounded(card.size, CARD_CORNER_PX))
        return sheet

    def _thumbnail(self, frame: Frames) -> Image.Image:
        """A frame [H, W, 3] no larger than it will be drawn."""
        image = Image.fromarray(frame)
        image.thumbnail(self._picture, Image.Resampling.BICUBIC)
        return image


def clock(seconds: float) -> str:
    """A time such as 0:07, 12:30 or 1:02:03, with tenths where they are not zero."""
    tenths = round(seconds * 10)
    whole, tenth = divmod(tenths, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{text}.{tenth}" if tenth else text


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, room_px: float) -> str:
    """The text, or as many of its words as fit and an ellipsis."""
    if font.getlength(text) <= room_px:
        return text
    words = text.split()

    def length(count: int) -> float:
        return font.getlength(" ".join(words[:count]) + " ...")

    fitting = bisect_right(range(len(words)), room_px, key=length) - 1
    return " ".join(words[: max(fitting, 0)]) + " ..."


def _rounded(size: tuple[int, int], radius_px: int) -> Image.Image:
    """A mask of a rectangle with rounded corners."""
    width, height = size
    side = 2 * radius_px
    disc = Image.new("L", (side * SMOOTHING, side * SMOOTHING), 0)
    ImageDraw.Draw(disc).ellipse((0, 0, side * SMOOTHING - 1, side * SMOOTHING - 1), fill=255)
    disc = disc.resize((side, side), Image.Resampling.LANCZOS)
    mask = Image.new("L", size, 255)
    for left, right in ((0, radius_px), (radius_px, side)):
        for top, bottom in ((0, radius_px), (radius_px, side)):
            at = (left and width - radius_px, top and height - radius_px)
            mask.paste(disc.crop((left, top, right, bottom)), at)
    return mask
