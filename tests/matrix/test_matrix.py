"""Each row of the table in docs/models.md streams two chunks with a switch, exactly."""

import itertools
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from tests.matrix import loras, parts, students
from tests.matrix.rows import WEIGHTS, spec_of
from tests.wan_folder import make_wan_folder
from tests.wan_transformer import write_transformer

from afstream import ModelSpec, Stream, StreamConfig
from afstream.families.presets import find_preset

GUIDE = Path(__file__).parents[2] / "docs" / "models.md"
MARKS = ("<!-- table of files -->", "<!-- end of table of files -->")
ROWS = {**students.ROWS, **loras.ROWS, **parts.ROWS}
STAR, TURN = "a red star drifts left", "a blue star over the meadow"
# sums of merged weights are made in another order
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make_wan_folder(tmp_path_factory.mktemp("plain") / "wan", layout="original")


def two_chunks(spec: ModelSpec, preset: str | None):
    """Latents and frames of two chunks with a switch between them."""
    stream = Stream.open(StreamConfig(model=spec, size=(32, 32), preset=preset))
    chunks = []
    for prompt in (STAR, TURN):
        stream.cue(prompt)
        chunks += itertools.islice(stream.chunks(), 1)
    assert [chunk.segment for chunk in chunks] == [0, 1]
    assert [len(chunk.frames) for chunk in chunks] == [9, 12]
    latents = torch.cat([chunk.latents for chunk in chunks], 1)
    assert torch.isfinite(latents).all()
    return latents, torch.cat([torch.from_numpy(chunk.frames).int() for chunk in chunks])


@pytest.fixture(scope="module")
def plain_video(plain, tmp_path_factory):
    """What a plain model with other weights makes; most rows share theirs."""
    made = {}

    def play(weights, like, preset):
        key = (id(weights), preset, *like.items())
        if key not in made:
            place = tmp_path_factory.mktemp("like")
            write_transformer(place, "original", weights=weights)
            student = place / "diffusion_pytorch_model.safetensors"
            spec = spec_of({"student": str(student), **like}, plain)
            # with the weights, so that no others get their number
            made[key] = weights, two_chunks(spec, preset)
        return made[key][1]

    return play


@pytest.mark.parametrize("name", ROWS)
def test_it_makes_the_video_of_a_plain_model(tmp_path, plain, plain_video, name):
    row = ROWS[name](tmp_path, plain)
    spec = spec_of(row.spec, plain)
    found = find_preset(None, spec)
    assert (found and found.name) == row.preset
    latents, frames = two_chunks(spec, row.preset)
    expected, pictures = plain_video(row.weights, row.like, row.preset)
    torch.testing.assert_close(latents, expected, rtol=0, atol=TOLERANCE)
    assert (frames - pictures).abs().max() <= 1


def test_other_weights_make_another_video(plain_video):
    """The comparison above can fail: one weight that is a little stronger shows."""
    name = "blocks.0.self_attn.q.weight"
    own, _ = plain_video(WEIGHTS, {}, None)
    changed, _ = plain_video({**WEIGHTS, name: WEIGHTS[name] * 1.01}, {}, None)
    assert (changed - own).abs().max() > 10 * TOLERANCE


def test_the_table_has_these_rows():
    text = GUIDE.read_text(encoding="utf-8")
    begin, end = (text.index(mark) for mark in MARKS)
    cells = re.findall(r"^\| (.+?) \|", text[begin:end], re.MULTILINE)
    assert [cell for cell in cells if cell != "File" and "---" not in cell] == list(ROWS)
