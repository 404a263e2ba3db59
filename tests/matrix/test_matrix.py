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


@pytest.mark.parametrize("name", ROWS)
def test_it_makes_the_video_of_a_plain_model(tmp_path, plain, name):
    given = tmp_path / "given"
    given.mkdir()
    row = ROWS[name](given, plain)
    found = find_preset(None, spec_of(row, plain))
    assert (found and found.name) == row.preset
    latents, frames = two_chunks(spec_of(row, plain), row.preset)

    write_transformer(tmp_path / "like", "original", weights=row.weights)
    like = {"student": str(tmp_path / "like" / "diffusion_pytorch_model.safetensors")} | row.like
    spec = ModelSpec(name=str(plain), dtype="float32", device="cpu", **like)
    expected, pictures = two_chunks(spec, row.preset)
    torch.testing.assert_close(latents, expected, rtol=0, atol=TOLERANCE)
    assert (frames - pictures).abs().max() <= 1


def test_other_weights_make_another_video(tmp_path, plain):
    """The comparison above can fail: one weight that is a little stronger shows."""
    name = "blocks.0.self_attn.q.weight"
    write_transformer(tmp_path, "original", weights={**WEIGHTS, name: WEIGHTS[name] * 1.01})
    student = str(tmp_path / "diffusion_pytorch_model.safetensors")
    spec = ModelSpec(name=str(plain), student=student, dtype="float32", device="cpu")
    own = ModelSpec(name=str(plain), dtype="float32", device="cpu")
    changed, latents = two_chunks(spec, None)[0], two_chunks(own, None)[0]
    assert (changed - latents).abs().max() > 10 * TOLERANCE


def test_the_table_has_these_rows():
    text = GUIDE.read_text(encoding="utf-8")
    begin, end = (text.index(mark) for mark in MARKS)
    cells = re.findall(r"^\| (.+?) \|", text[begin:end], re.MULTILINE)
    assert [cell for cell in cells if cell != "File" and "---" not in cell] == list(ROWS)
