"""The GPU check, as far as a CPU can run it: nothing that it times here means anything."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FIGURES = {
    "name",
    "cold_ms",
    "warm_up_ms",
    "chunk_ms",
    "recache_ms",
    "fps",
    "peak_bytes",
    "profile",
}


@pytest.fixture
def stages(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check
    from gpu_stages import correctness, predictions, profiling, wan_chunk

    yield SimpleNamespace(
        check=gpu_check,
        correctness=correctness,
        predictions=predictions,
        profiling=profiling,
        chunk=wan_chunk,
    )
    for name in [name for name in sys.modules if name.startswith(("gpu_stages", "gpu_check"))]:
        del sys.modules[name]


def test_one_file_holds_every_figure_and_its_prediction(stages, monkeypatch, tmp_path):
    sdpa = [way for way in stages.chunk.VARIANTS if way.name == "sdpa, eager"]
    monkeypatch.setattr(stages.chunk, "VARIANTS", sdpa)
    out = tmp_path / "found.json"
    assert stages.check.main(["--only", "chunk", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["faults"] == []
    public, ours = found["chunk"]
    assert public["name"] == "public way, eager"
    assert ours.keys() >= FIGURES
    assert ours["finite"]
    assert found["machine"]["torch"] == torch.__version__
    listed = {row["what"]: row for row in found["predictions"]}
    assert listed["one chunk, vendor attention, graphs"]["found"] == round(ours["chunk_ms"], 2)
    assert listed["one chunk, own attention, graphs"]["found"] is None


def test_a_stage_that_breaks_is_a_fault_and_ends_nothing(stages, monkeypatch, tmp_path):
    def broken(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(stages.check, "check_kernels", broken)
    monkeypatch.setattr(
        stages.check,
        "check_streams",
        lambda *_: iter([stages.correctness.Check(name="a stream", error=float("nan"), allowed=1)]),
    )
    out = tmp_path / "found.json"
    assert stages.check.main(["--only", "kernels", "stream", "--out", str(out)]) == 1
    assert json.loads(out.read_text())["faults"] == [
        "kernels: RuntimeError: no such kernel",
        "a stream is off by nan",
    ]


def test_kernels_pass_and_a_wrong_one_does_not(stages, monkeypatch):
    correctness = stages.correctness
    monkeypatch.setattr(correctness, "DTYPES", (torch.float32,))
    monkeypatch.setattr(correctness, "HEAD_DIMS", (32,))
    found = list(correctness.check_kernels(torch.device("cpu")))
    assert len(found) == 7
    assert all(check.passed for check in found)

    plain = correctness.copy_slots

    def forgets_the_turn(*args, **settings):
        plain(*args[:6], **settings)

    monkeypatch.setattr(correctness, "copy_slots", forgets_the_turn)
    operation = correctness.operations(torch.float32, 32, torch.device("cpu"))["slot copy, turned"]
    right = operation("truth")
    monkeypatch.undo()
    truth = correctness.operations(torch.float32, 32, torch.device("cpu"))["slot copy, turned"]
    assert correctness.relative_error(right, truth("truth")) > 0.1


def test_a_stream_on_the_device_is_held_against_the_cpu(stages):
    play = stages.correctness.play
    cpu = torch.device("cpu")
    exact = play(cpu, torch.float32, "reference", 5)
    assert exact.shape == (5, 1, 3, 16, 8, 8)
    assert (
        stages.correctness.relative_error([play(cpu, torch.float32, "sdpa", 5)], [exact.double()])
        < 1e-5
    )


def test_copies_in_a_chunk_are_noticed(stages):
    x = torch.randn(4, 4)
    assert stages.profiling.profiled(lambda: x + 1)["faults"] == []
    faults = stages.profiling.profiled(lambda: torch.cat([x.clone(), x]).sum().item())["faults"]
    assert {"1 x aten::clone", "1 x aten::cat", "1 x aten::item"} <= set(faults)
