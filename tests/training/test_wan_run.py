"""The Wan recipe on a tiny folder: pairs, regression, short, long, export, then a video of it."""

import json
from itertools import pairwise

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from safetensors.torch import load_file
from tests.wan_folder import make_wan_folder

from afstream import Stream, Timeline
from afstream.checkpoints import read_student
from afstream.spec import ModelSpec
from afstream.training.recipes.reading import load_recipe
from afstream.training.runs.opening import claim, open_run, together

PAIRS = '{"prompts": ["a red star", "a blue star"]}\n'
SMALL = (
    "sizes.width_px=32",
    "sizes.height_px=32",
    "sizes.frozen=float32",
    "start.negative_prompt=''",
    "pairs.pairs=2",
    "pairs.frames=6",
    "pairs.steps=4",
    "ode.iterations=1",
    "ode.batch=1",
    "ode.lr=1e-3",
    *(f"{stage}.{setting}" for stage in ("short", "long") for setting in (
        "critic_updates=1",
        "batch=1",
        "horizon_frames=6",
        "ema_from=0",
        "lr=1e-3",
    )),
    "short.iterations=1",
    "short.max_frames=6",
    "long.iterations=2",
    "long.max_frames=9",
    "lora.rank=4",
    "lora.alpha=4.0",
    "log.report_every=1",
    "sheet.every=2",
    'sheet.timeline="@duration 9f\\n0:00 a red star"',
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny convolutions: where cores are shared, threads that wait for each other cost seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_all_stages_make_a_student_that_streams(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wan = make_wan_folder(tmp_path / "wan", layout="original")
    (tmp_path / "pairs.jsonl").write_text(PAIRS)
    start = (
        f"start.student={wan}",
        f"start.teacher={wan}",
        f"start.prompts={tmp_path}/pairs.jsonl",
    )
    recipe = load_recipe("wan-1.3b", [*SMALL, *start])
    told = []
    folder = tmp_path / "run"
    with together(recipe) as processes:
        run = open_run(recipe, folder, processes)
        with claim(run, resume=False, processes=processes):
            for stage in run.stages:
                assert not stage.is_done
                stage.run(told.append)
                assert stage.is_done is (stage.name != "export")
                assert stage.saved_step == stage.steps
    assert [entry for entry in told if "kind" in entry][-1]["done"] == 2
    assert [entry["sheet"] for entry in told if "sheet" in entry] == [
        str(folder / "sheets" / "long-000002.png")
    ]
    assert (folder / "sheets" / "long-000002.png").is_file()
    lines = [json.loads(line) for line in (folder / "long" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2]

    # drawing put the average in the student's place, and took it away again
    last = load_file(folder / "long-student.safetensors")
    average = load_file(folder / "long-ema.safetensors")
    assert last.keys() == average.keys()
    assert any(not torch.equal(last[name], average[name]) for name in last)

    # each stage went on from the one before, and the LoRA is in the end
    made = [
        read_student(folder / name).weights
        for name in (
            "ode-student.safetensors",
            "short-student.safetensors",
            "student.safetensors",
        )
    ]
    moved = ["blocks.0.self_attn.q.weight", "blocks.1.ffn.0.weight"]
    for before, after in pairwise(made):
        assert before.keys() == after.keys()
        for name in moved:
            assert not torch.equal(before[name], after[name])
    # a LoRA leaves what is no layer's linear map
    assert torch.equal(made[1]["head.head.weight"], made[2]["head.head.weight"])

    spec = ModelSpec(name=str(wan), student=str(folder / "student.safetensors"), device="cpu")
    stream = Stream.open(spec, size=(32, 32))
    [chunk] = stream.play(Timeline.parse("@duration 9f\n0:00 a red star"))
    assert chunk.frames.shape == (9, 32, 32, 3)
