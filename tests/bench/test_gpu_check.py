"""The GPU check, as far as a CPU can run it: nothing that it times here means anything."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")
FIGURES = {
    "name",
    "cold_ms",
    "warm_up_ms",
    "chunk_ms",
    "recache_ms",
    "fps",
    "peak_bytes",
    "estimated_bytes",
    "peak_share",
    "profile",
}


@pytest.fixture
def stages(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check
    from gpu_stages import correctness, predictions, profiling, tiles, wan_chunk

    yield SimpleNamespace(
        check=gpu_check,
        correctness=correctness,
        predictions=predictions,
        profiling=profiling,
        tiles=tiles,
        chunk=wan_chunk,
    )
    for name in [name for name in sys.modules if name.startswith(("gpu_stages", "gpu_check"))]:
        del sys.modules[name]


def test_one_file_holds_every_figure_and_its_prediction(stages, monkeypatch, tmp_path):
    sdpa = [way for way in stages.chunk.VARIANTS if way.name == "sdpa, eager"]
    monkeypatch.setattr(stages.chunk, "VARIANTS", sdpa)
    out = tmp_path / "found.json"
    assert stages.check.main(["--device", "cpu", "--only", "chunk", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["faults"] == []
    public, ours = found["chunk"]
    assert public["name"] == "public way, eager"
    assert ours.keys() >= FIGURES
    assert ours["finite"]
    assert ours["estimated_bytes"] > 0
    assert ours["peak_share"] is None
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
    assert (
        stages.check.main(["--device", "cpu", "--only", "kernels", "stream", "--out", str(out)])
        == 1
    )
    assert json.loads(out.read_text())["faults"] == [
        "kernels: RuntimeError: no such kernel",
        "a stream is off by nan",
    ]


@pytest.fixture
def correctness(stages, monkeypatch):
    """One dtype and head dim, and two tiles a slot: the interpreter is slow."""
    small = {"DTYPES": (torch.float32,), "HEAD_DIMS": (32,), "HEADS": 2, "GRID": (3, 1, 13)}
    for name, value in {**small, "TOKENS": 39, "SLOT_TOKENS": 39}.items():
        monkeypatch.setattr(stages.correctness, name, value)
    return stages.correctness


def test_kernels_pass(correctness):
    found = list(correctness.check_kernels(CPU))
    assert len(found) == 8
    assert all(check.passed for check in found)


def test_a_kernel_that_forgets_something_does_not_pass(correctness, monkeypatch):
    whole = correctness.copy_slots

    def forgets_the_turn(*args, backend):
        whole(*(args[:6] if backend == "triton" else args), backend=backend)

    monkeypatch.setattr(correctness, "copy_slots", forgets_the_turn)
    wrong = [check.name for check in correctness.check_kernels(CPU) if not check.passed]
    assert wrong == ["slot copy, shifted, float32, head dim 32"]


def test_a_stream_on_the_device_is_held_against_the_cpu(stages):
    play = stages.correctness.play
    exact = play(CPU, torch.float32, "reference", 5)
    assert exact.shape == (5, 1, 3, 16, 8, 8)
    assert (
        stages.correctness.relative_error([play(CPU, torch.float32, "sdpa", 5)], [exact.double()])
        < 1e-5
    )


def test_what_bfloat16_may_err_does_not_hang_on_one_seed(stages, monkeypatch):
    """A stream is chaotic: one seed's error is no bound of another's."""
    module = stages.correctness
    strays = {3: 0.01, 4: 0.03, 5: 0.02}
    monkeypatch.setattr(module, "stray_of", lambda _, seed: strays[seed])
    monkeypatch.setattr(module, "play", lambda *_, **__: torch.ones(2, 3))
    allowed = {check.name: check.allowed for check in module.check_streams(CPU, 2)}
    assert allowed["pocket stream, sdpa, bfloat16"] == module.ALLOWED * 0.03
    assert allowed["pocket stream, sdpa, float32"] == 1e-3


def test_copies_in_a_chunk_are_noticed(stages):
    x = torch.randn(4, 4)
    assert stages.profiling.profiled(lambda: x + 1)["faults"] == []
    faults = stages.profiling.profiled(lambda: torch.cat([x.clone(), x]).sum().item())["faults"]
    assert {"1 x aten::clone", "1 x aten::cat", "1 x aten::item"} <= set(faults)


def test_tiles_are_compared_fastest_first(stages, monkeypatch, tmp_path):
    out = tmp_path / "found.json"
    assert stages.check.main(["--device", "cpu", "--only", "tiles", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["tiles"]
    assert row["ms"] > 0
    times = [stages.tiles.TileTime(tile={}, splits=1, ms=ms) for ms in (2.0, None, 1.0)]
    assert [row["ms"] for row in stages.tiles.as_rows(times)] == [1.0, 2.0, None]


def test_what_would_not_end_in_time_is_left_out(stages):
    check = stages.check.GpuCheck(CPU, stages.check.TINY, 0.0)
    # on a CPU nothing is left out
    check._device = torch.device("cuda")
    check.run(["chunk"], lambda _: None)
    assert check.found["skipped"] == ["chunk"]
    assert check.found["faults"] == []


@pytest.mark.gpu
def test_everything_holds_on_the_gpu(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--device", "cuda"]
    stages = ["--only", "kernels", "stream", "--out", str(tmp_path / "found.json")]
    # the tests interpret; the GPU must not
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    subprocess.run([*command, *stages], env=environment, check=True)
