"""Captions, drawn into pictures and written beside them."""

import numpy as np
import pytest
from tests.video.films import SIZE, chunk_of, read

from afstream.video import Caption, VideoWriter, srt, vtt
from afstream.video.captions import CaptionPainter, wrapped
from afstream.video.captions import best_font as font_for

SPOILT = (
    Caption(0, 1.5, "A red star --> a ball\n\n\n2\n00:00 <b>&amp;\x00\x1b[0m\r\nend"),
    Caption(3599.9996, 36_000, "ä\ud800 --------->"),
    Caption(5, 6, " \n\t\n"),
)


def test_srt():
    assert srt(SPOILT) == (
        "1\n00:00:00,000 --> 00:00:01,500\nA red star -> a ball\n2\n00:00 <b>&amp; [0m\nend\n\n"
        "2\n01:00:00,000 --> 10:00:00,000\nä ->\n\n"
    )


def test_vtt():
    assert vtt(SPOILT) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n"
        "A red star -&gt; a ball\n2\n00:00 &lt;b&gt;&amp;amp; [0m\nend\n\n"
        "01:00:00.000 --> 10:00:00.000\nä -&gt;\n\n"
    )


def test_a_caption_is_drawn_at_the_foot_of_its_frames_alone(tmp_path):
    plain, drawn = tmp_path / "plain", tmp_path / "drawn"
    texts = [""] * 6 + ["A red star spins over the sea"] * 6
    for path, captions in ((plain, None), (drawn, texts)):
        with VideoWriter.open(path, size=SIZE, fps=16) as writer:
            writer.write(chunk_of(0), captions)
    before, after = np.array(read(plain), int), np.array(read(drawn), int)
    assert np.array_equal(before[:6], after[:6])
    changed = (before != after).any(-1)[6:]
    assert changed[:, 240:].any((1, 2)).all()
    assert not changed[:, :220].any()
    # White letters with a dark rim, within the margins.
    assert (after[6:] == 255).all(-1).sum() > 500
    assert (after[6:] == 0).all(-1).sum() > 500
    columns = np.flatnonzero(changed.any((0, 1)))
    assert columns[0] > 5
    assert columns[-1] < 384 - 6


def test_captions_must_be_as_many_as_frames(tmp_path):
    with (
        VideoWriter.open(tmp_path / "film.mp4", size=SIZE, fps=16) as writer,
        pytest.raises(ValueError, match="2 captions came with 12 frames"),
    ):
        writer.write(chunk_of(0), ["a", "b"])


@pytest.mark.parametrize("text", ["word " * 200, "x" * 1000, "a " + "y" * 500])
def test_long_captions_are_broken_and_shortened(text):
    _, font = font_for("a", 20)
    lines = wrapped(text.strip(), font, 300)
    assert len(lines) == 4
    assert lines[-1].endswith("...")
    assert all(0 < font.getlength(line) <= 300 for line in lines)


def test_what_no_font_has_is_left_out_and_said_once():
    said = []
    painter = CaptionPainter(said.append)
    frame = np.zeros((256, 256, 3), np.uint8)
    # Reserved for private use, and for nothing at all.
    first = painter.paint(frame, "ball \U000ffff0\U0003ffff")
    second = painter.paint(frame, "ball \U000ffff0\U0003ffff")
    assert len(said) == 1
    assert "which captions leave out" in said[0]
    assert np.array_equal(first, second)
    assert np.array_equal(first, painter.paint(frame, "ball"))
    assert np.array_equal(painter.paint(frame, "\U000ffff0"), frame)


def test_accents_need_no_font_of_the_system():
    said = []
    painter = CaptionPainter(said.append)
    frame = np.zeros((256, 256, 3), np.uint8)
    assert painter.paint(frame, "Größe, naïve, façade: año").any()
    assert said == []
