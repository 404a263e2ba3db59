"""`afstream bench kernels`: tables, the appended line, and exit codes."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch

import kernel_bench
from afstream.bench import Machine
from afstream_cli import bench_kernels
from kernel_bench import CaseResult, KernelReport, KernelRow, kernel_cases
from kernel_bench import bench as engine
from kernel_bench.figures import CHECKED_NOTE, CPU_NOTE, milliseconds, show_kernels
from kernel_bench.report import Prediction
from kernel_bench.sizes import PRODUCTION
from kernel_bench.timing import H200, Timing

Run = Callable[..., Any]
BENCH = ("bench", "kernels", "--device", "cpu")


@pytest.fixture
def one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "kernel_cases", lambda settings: kernel_cases(settings)[:1])


def test_a_cpu_says_that_it_means_nothing_for_a_gpu(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "kernel_cases", lambda settings: kernel_cases(settings)[1:3])
    done = command(*BENCH)
    assert done.code == 0
    for words in ("pocket", "attention, chunk", "reference", "sdpa", "error", CPU_NOTE):
        assert words in done.out
    assert "floor" not in done.out
    assert done.err.splitlines()[-1].startswith("bench kernels  ")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("one_case")
def test_lines_are_appended(command: Run, tmp_path: Path):
    for _ in range(2):
        done = command(*BENCH, "--out", "made/k.jsonl", "--quiet")
        assert (done.code, done.err) == (0, "")
        assert "Appended to made/k.jsonl" in done.out
    lines = (tmp_path / "made" / "k.jsonl").read_text().splitlines()
    first, last = (json.loads(line) for line in lines)
    assert first["machine"] | {"load": 0} == last["machine"] | {"load": 0}
    assert last["cases"][0]["rows"][0]["timing"]["median_ms"] > 0


@pytest.mark.usefixtures("one_case")
def test_json_has_a_place_of_its_own(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel_bench, "RESULTS_FILE", Path("results.jsonl"))
    assert command(*BENCH, "--json").code == 0
    assert json.loads((tmp_path / "results.jsonl").read_text())["kind"] == "kernels"


@pytest.mark.usefixtures("one_case")
def test_the_interpreter_only_checks(command: Run):
    done = command(*BENCH, "--backend", "triton")
    assert done.code == 0
    assert CHECKED_NOTE in done.out
    assert CPU_NOTE not in done.out


def test_a_wrong_kernel_exits_with_1(command: Run, monkeypatch: pytest.MonkeyPatch):
    def one_bad(settings):
        case = kernel_cases(settings)[0]
        return [replace(case, ops={"bad": lambda inputs: (inputs.x * math.nan,)})]

    monkeypatch.setattr(engine, "kernel_cases", one_bad)
    done = command(*BENCH, "-o", "k.jsonl", "-q")
    assert done.code == 1
    assert "WRONG" in done.out
    assert json.loads(Path("k.jsonl").read_text())["faults"] == ["LayerNorm + modulation: bad"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["bench", "kernels", "--device", "abacus"], "abacus"),
        ([*BENCH, "--size", "480p"], "pocket"),
        ([*BENCH, "--size", "big"], "480p or pocket"),
        ([*BENCH, "--backend", "magic"], "magic"),
        ([*BENCH, "--out", "."], "cannot write"),
        (["bench", "--duration", "4s", "kernels"], "--duration"),
    ],
    ids=str,
)
def test_impossible_settings_are_one_sentence(command: Run, arguments: list[str], word: str):
    done = command(*arguments)
    assert done.code == 2
    assert done.err.startswith("afstream: ")
    assert word in done.err
    assert len(done.err.splitlines()) == 1


def test_without_a_checkout_it_says_what_it_needs(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench_kernels, "BENCHMARKS", tmp_path / "benchmarks")
    done = command(*BENCH)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("afstream: ")
    assert "checkout" in done.err
    assert len(done.err.splitlines()) == 1


def test_its_own_folder_is_where_it_looks():
    script = "from afstream_cli.bench_kernels import find_kernel_bench as find; find();"
    script += "import kernel_bench; print(kernel_bench.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert Path(done.stdout.strip()) == Path(kernel_bench.__file__)


def test_the_help_of_bench_lists_it(command: Run):
    done = command("bench", "--help")
    assert done.code == 0
    assert "--duration" in done.out
    assert "kernels" in done.out


def gpu_report() -> KernelReport:
    timing = Timing(median_ms=1.52, low_ms=1.5, high_ms=1.6, runs=60)
    ours = KernelRow(
        name="triton",
        ours=True,
        status="timed",
        error=3e-3,
        timing=timing,
        tflops=442.7,
        gb_per_s=113.0,
        share_of_floor=0.56,
        times_ours=1.0,
        prediction=Prediction(low_ms=1.4, high_ms=1.5, aim_ms=1.6),
    )
    refused = KernelRow(
        name="SDPA flash, keys ready", ours=False, status="unavailable", note="no [tiles] left"
    )
    case = CaseResult(
        name="attention, chunk",
        about="many queries",
        tolerance=0.03,
        flops=6.7e11,
        moved_bytes=1.7e8,
        floor_ms=0.9,
        h200_floor_ms=0.852,
        rows=(ours, refused),
    )
    return KernelReport(
        time=datetime.now(timezone.utc),
        machine=Machine.here(torch.device("cpu")),
        gpu={
            "name": "Abacus 9000",
            "sm_mhz": 1755,
            "memory_mhz": None,
            "power_w": None,
            "power_limit_w": 700,
        },
        device="cuda",
        dtype="bfloat16",
        shape=PRODUCTION,
        ceilings=H200,
        cases=(case,),
    )


def test_a_gpu_has_floors_ratios_and_predictions(capsys: pytest.CaptureFixture[str]):
    report = gpu_report()
    show_kernels(report, None)
    out = capsys.readouterr().out
    for words in (
        "Abacus 9000",
        "1755 MHz, 700 W allowed",
        "790 TFLOP/s, 4.30 TB/s",
        "floor 0.900 ms, on an H200 0.852 ms",
        "TFLOP/s  of floor",
        "56%",
        "predicted 1.40 to 1.50, aim 1.60",
        "unavailable: no [tiles] left",
    ):
        assert words in out
    assert CPU_NOTE not in out
    assert json.loads(json.dumps(report.as_data()))["gpu"]["sm_mhz"] == 1755


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0139, "0.0139"), (0.852, "0.852"), (1.69, "1.69"), (123.4, "123")],
)
def test_milliseconds_have_three_digits(value: float, text: str):
    assert milliseconds(value) == text
