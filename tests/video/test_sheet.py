"""The contact sheet stays small while it collects, and shows what was there."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from afstream.errors import OutputError
from afstream.video.sheet import CARD, MAX_ROWS, ContactSheet, clock
from afstream.video.stride_sample import StrideSample


@given(count=st.integers(1, 3000), picks=st.integers(2, 9))
def test_picks_are_evenly_spaced(count: int, picks: int):
    spaced: StrideSample[int] = StrideSample(picks)
    for item in range(count):
        spaced.offer(lambda item=item: item)
    picked = spaced.picked()
    assert picked[0] == 0
    assert len(picked) == min(count, picks)
    if count > 4 * picks:
        gaps = [later - earlier for earlier, later in pairwise(picked)]
        assert max(gaps) <= 2 * min(gaps)
        assert picked[-1] >= count * (1 - 1 / picks)


def test_only_kept_items_are_made():
    made: list[int] = []
    spaced: StrideSample[None] = StrideSample(4)
    for item in range(100_000):
        spaced.offer(lambda item=item: made.append(item))
    assert len(made) < 16 * 20


def collect(sheet: ContactSheet, segments: int, size: tuple[int, int] = (64, 48)) -> None:
    width, height = size
    for segment in range(segments):
        frames = np.full((12, height, width, 3), 40 + segment, np.uint8)
        for part in range(5):
            start_s = (segment * 5 + part) * 0.75
            sheet.add(frames, segment=segment, prompt=f"prompt {segment}", start_s=start_s)


def test_one_row_a_segment(tmp_path: Path):
    heights: list[int] = []
    for segments in (1, 2, 3):
        sheet = ContactSheet((64, 48))
        collect(sheet, segments)
        sheet.save(tmp_path / "deep" / "sheet.png")
        with Image.open(tmp_path / "deep" / "sheet.png") as image:
            heights.append(image.height)
            assert 1200 < image.width < 1400
    assert heights[1] - heights[0] == heights[2] - heights[1] > 150


def test_every_picture_of_a_row_is_drawn():
    sheet = ContactSheet((64, 48))
    collect(sheet, 1)
    row = np.asarray(sheet.draw().convert("RGB"))[140]
    grey = (row == np.full(3, 40)).all(-1)
    card = (row == np.array([int(CARD[at : at + 2], 16) for at in (1, 3, 5)])).all(-1)
    starts = np.flatnonzero(np.diff(grey.astype(int)) == 1)
    assert len(starts) == 6
    assert np.logical_or(grey, card).all()


def test_long_streams_show_their_newest_segments():
    sheet, full = ContactSheet((64, 48)), ContactSheet((64, 48))
    collect(full, MAX_ROWS)
    collect(sheet, MAX_ROWS + 6)
    extra = sheet.draw().height - full.draw().height
    assert 0 < extra < 100


def test_wide_pictures_get_fewer_columns():
    sheet = ContactSheet((832, 480))
    collect(sheet, 1, (832, 480))
    assert 1200 < sheet.draw().width < 1400


def test_a_prompt_of_any_length_and_script_is_drawn():
    sheet = ContactSheet((64, 64))
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    for segment, prompt in enumerate(("word " * 500, "x" * 5000, "狐が走る", "a")):
        sheet.add(frames, segment=segment, prompt=prompt, start_s=segment * 3600.5)
    sheet.draw()


def test_unwritable_sheet_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    sheet = ContactSheet((64, 48))
    collect(sheet, 1)
    with pytest.raises(OutputError, match="choose another path"):
        sheet.save(tmp_path / "file" / "sheet.png")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.5, "0:07.5"), (59.97, "1:00"), (750, "12:30"), (3723.04, "1:02:03")],
)
def test_clock(seconds: float, text: str):
    assert clock(seconds) == text
