"""Draws captions into pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Shares of the picture's shorter side.
LETTER_SHARE = 0.055
MARGIN_SHARE = 0.04
SMALLEST_LETTER_PX = 9
OUTLINE_SHARE = 0.09
LIGHT = (255, 255, 255)
DARK = (0, 0, 0)
MAX_LINES = 4
ELLIPSIS = "..."
# By file name, as systems install them; Pillow looks in the system's font folders. Its own font,
# which has Latin letters only, comes first because it looks the same everywhere.
FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "Arial Unicode.ttf",
    "arial.ttf",
    "msyh.ttc",
    "PingFang.ttc",
    "wqy-microhei.ttc",
)
# No font has this character, so it shows what a font draws in place of one that it lacks.
LACKING = "\U0010fffe"


class CaptionPainter:
    """Draws white text with a dark outline at the foot of pictures of one size.

    Args:
        warn: is told, once for each character, that no font here has it; it is then left out.
    """

    def __init__(self, warn: Callable[[str], None] | None = None) -> None:
        self._warn = warn
        self._warned: set[str] = set()

    def paint(self, frame: Pixels, text: str) -> Pixels:
        """A copy of a frame [H, W, 3] with the text drawn into it."""
        height, width = frame.shape[:2]
        side = min(height, width)
        letter_px = max(SMALLEST_LETTER_PX, round(side * LETTER_SHARE))
        text, font = self._readable(" ".join(text.split()), letter_px)
        image = Image.fromarray(frame)
        if not text:
            return np.array(image)
        margin = round(side * MARGIN_SHARE)
        outline = max(1, round(letter_px * OUTLINE_SHARE))
        lines = wrapped(text, font, width - 2 * margin)
        pen = ImageDraw.Draw(image)
        pen.multiline_text(
            (width / 2, height - margin),
            "\n".join(lines),
            fill=LIGHT,
            font=font,
            anchor="md",
            align="center",
            stroke_width=outline,
            stroke_fill=DARK,
        )
        return np.array(image)

    def _readable(self, text: str, letter_px: int) -> tuple[str, Font]:
        """The text without what no font has, and the font that has the most of it."""
        missing, font = best_font(text, letter_px)
        if new := missing - self._warned:
            self._warned |= new
            if self._warn:
                shown = "".join(sorted(new))
                self._warn(
                    f"no font here has {shown!r}, which captions leave out; install a font that"
                    " has it, such as Noto Sans"
                )
        return "".join(letter for letter in text if letter not in missing).strip(), font


@lru_cache(maxsize=64)
def best_font(text: str, letter_px: int) -> tuple[frozenset[str], Font]:
    """The first font that lacks the fewest characters of a text, and which those are."""
    letters = frozenset(letter for letter in text if not letter.isspace())
    best: tuple[frozenset[str], Font] | None = None
    for font in fonts(letter_px):
        missing = frozenset(letter for letter in letters if lacks(font, letter))
        if best is None or len(missing) < len(best[0]):
            best = missing, font
        if not missing:
            break
    assert best  # noqa: S101  Pillow brings a font of its own
    return best


@lru_cache(maxsize=4)
def fonts(letter_px: int) -> tuple[Font, ...]:
    """Pillow's font and those of `FONTS` that this machine has."""
    found: list[Font] = [ImageFont.load_default(letter_px)]
    for name in FONTS:
        try:
            found.append(ImageFont.truetype(name, letter_px))
        except OSError:
            continue
    return tuple(found)


@lru_cache(maxsize=4096)
def lacks(font: Font, letter: str) -> bool:
    """Whether a font draws a letter as it draws one that it does not have."""
    if isinstance(font, ImageFont.FreeTypeFont):
        return drawn(font, letter) == drawn(font, LACKING)
    return not letter.isascii()


def drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    """The size and pixels of a letter."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(letter))
    image = Image.new("L", (max(right, 1), max(bottom, 1)))
    ImageDraw.Draw(image).text((0, 0), letter, 255, font)
    return (right - left, bottom - top), image.tobytes()


def wrapped(text: str, font: Font, room_px: float) -> list[str]:
    """A text broken into lines that fit, at words where it has them; four at most."""
    lines: list[str] = []
    rest = text
    while rest:
        if len(lines) == MAX_LINES:
            lines[-1] = fitting(lines[-1], font, room_px - font.getlength(ELLIPSIS)) + ELLIPSIS
            break
        line = fitting(rest, font, room_px)
        lines.append(line)
        rest = rest[len(line) :].strip()
    return lines


def fitting(text: str, font: Font, room_px: float) -> str:
    """The start of a text that fits, which ends at a word's end if that leaves anything."""
    if font.getlength(text) <= room_px:
        return text
    count = 1
    while font.getlength(text[: count + 1]) <= room_px:
        count += 1
    words, space, _ = text[: count + 1].rpartition(" ")
    return words if space and words else text[:count]
