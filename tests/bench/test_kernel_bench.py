"""The bench of kernels: right ones are let through, wrong ones are not timed, all is recorded."""

import itertools
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from afstream.errors import ConfigError, OutputError
from kernel_bench import (
    RESULTS_FILE,
    SIZES,
    KernelCase,
    KernelRow,
    KernelSettings,
    append_line,
    check_appendable,
    kernel_cases,
    kernel_settings,
    run_kernel_bench,
)
from kernel_bench import bench as bench_module
from kernel_bench import gpu as gpu_module
from kernel_bench import timing as timing_module
from kernel_bench.errors import worst_error
from kernel_bench.gpu import gpu_state
from kernel_bench.report import PREDICTIONS, CaseResult, predicted
from kernel_bench.run import CaseRun, in_words
from kernel_bench.sizes import CHUNK_OFFSETS, POCKET, PRODUCTION, RECACHE_OFFSETS
from kernel_bench.timing import H200, GpuTimer, Timing, measure_ceilings

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
# Few heads and layers: the interpreter takes milliseconds for a tile, and torch a second core
# for larger tensors, which costs more than it brings where cores are shared.
SMALL = replace(POCKET, num_heads=2, num_layers=2)
NAMES = [case.name for case in kernel_cases(kernel_settings("cpu"))]


def settings(backend, dtype=torch.float32, shape=SMALL) -> KernelSettings:
    return KernelSettings(shape=shape, device=CPU, dtype=dtype, backends=(backend,), compiled=False)


def case_of(name, some: KernelSettings) -> KernelCase:
    return next(case for case in kernel_cases(some) if case.name == name)


def run(case: KernelCase, some: KernelSettings, *, timer=None, alternatives=False) -> CaseResult:
    with torch.no_grad():
        return CaseRun(case, some, timer, H200, alternatives=alternatives).result(lambda _: None)


def error_of(row: KernelRow) -> float:
    assert row.error is not None
    return row.error


class FakeTimer:
    """Says that everything takes 2 ms, without running it."""

    def __init__(self):
        self.timed = 0

    def __call__(self, _) -> Timing:
        self.timed += 1
        return Timing(median_ms=2.0, low_ms=1.0, high_ms=3.0, runs=7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("triton", torch.float32),
        ("triton", torch.bfloat16),
        ("sdpa", torch.float32),
        ("sdpa", torch.bfloat16),
        ("reference", torch.float32),
        ("reference", torch.bfloat16),
    ],
    ids=str,
)
def test_every_implementation_agrees_with_the_twin(name, backend, dtype):
    some = settings(backend, dtype)
    result = run(case_of(name, some), some)
    assert {row.status for row in result.rows} == {"checked"}
    assert all(row.ours and error_of(row) <= result.tolerance for row in result.rows)


@pytest.mark.parametrize("name", NAMES)
def test_alternatives_do_the_same_task(name):
    some = settings("reference")
    result = run(case_of(name, some), some, alternatives=True)
    others = [row for row in result.rows if not row.ours]
    assert others
    for row in others:
        # torch has these backends for GPUs only
        absent = "cudnn" in row.name or "efficient" in row.name
        assert row.status == ("unavailable" if absent else "checked"), row
        assert bool(row.note)


def spoil(tensor):
    tensor[..., -1, -1] += 1
    return tensor


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, "one value") for name in NAMES),
        ("attention, chunk", "not a number"),
        ("attention, chunk", "another shape"),
        ("norm + RoPE + write", "too few"),
    ],
)
def test_a_wrong_op_is_noticed_and_not_timed(name, fault):
    some = settings("reference")
    case = case_of(name, some)
    right = case.ops["reference"]

    def wrong(inputs):
        first, *rest = (x.clone() for x in right(inputs))
        if fault == "too few":
            return tuple(rest)
        first = {
            "one value": lambda: spoil(first),
            "not a number": lambda: torch.full_like(first, math.nan),
            "another shape": lambda: first[..., :-1],
        }[fault]()
        return first, *rest

    timer = FakeTimer()
    result = run(replace(case, ops={"bad": wrong, "good": right}), some, timer=timer)
    bad, good = result.rows
    assert (bad.status, bad.timing) == ("wrong", None)
    assert error_of(bad) > result.tolerance
    assert "differs" in bad.note or "not finite" in bad.note
    assert (good.status, timer.timed) == ("timed", 1)
    # nothing is compared with an op that is wrong
    assert good.times_ours is None


def test_an_op_that_writes_nothing_is_noticed():
    some = settings("reference")
    for name in ("norm + RoPE + write", "slot copy, store", "slot copy, gathered KV"):
        case = case_of(name, some)
        right = case.ops["reference"]

        def nothing(inputs, right=right):
            before = [x.clone() for x in vars(inputs).values() if isinstance(x, torch.Tensor)]
            out = right(inputs)
            for tensor, old in zip(
                (x for x in vars(inputs).values() if isinstance(x, torch.Tensor)),
                before,
                strict=True,
            ):
                tensor.copy_(old)
            return out

        result = run(replace(case, ops={"right": right, "lazy": nothing}), some)
        assert [row.status for row in result.rows] == ["checked", "wrong"]


def test_an_op_that_breaks_off_leaves_the_rest():
    some = settings("reference")
    case = case_of("LayerNorm + modulation", some)

    def broken(inputs):
        raise RuntimeError("no such instruction\nand a page more")

    result = run(replace(case, ops={"broken": broken, **case.ops}), some)
    first, second = result.rows
    assert (first.status, first.note) == ("failed", "no such instruction")
    assert second.status == "checked"

    unmade = replace(case, make_inputs=lambda: broken(None))
    result = run(unmade, some, alternatives=True)
    assert {row.status for row in result.rows if row.ours} == {"failed"}
    assert {row.status for row in result.rows if not row.ours} == {"unavailable"}


def test_rates_floors_and_ratios():
    some = settings("reference")
    case = case_of("attention, chunk", some)
    case = replace(case, flops=790e9, moved_bytes=4.3e6)
    ours, *others = run(case, some, timer=FakeTimer(), alternatives=True).rows
    assert ours.tflops == pytest.approx(395)
    assert ours.gb_per_s == pytest.approx(2.15)
    assert ours.share_of_floor == pytest.approx(0.5)
    assert {row.times_ours for row in others if row.timing} == {1.0}


def test_one_wrong_row_shows_as_much_as_a_wrong_tensor():
    exact = torch.randn(5, 300_000, 2)
    found = exact.clone()
    found[3, 7] += 10
    assert worst_error((found,), (exact,)) > 5
    assert worst_error((exact,), (exact,)) == 0
    assert worst_error((torch.ones(2, 3),), (torch.zeros(2, 3),)) == math.inf


def test_sizes_are_those_of_the_design():
    assert (PRODUCTION.chunk_tokens, PRODUCTION.width, PRODUCTION.num_layers) == (4680, 1536, 30)
    assert CHUNK_OFFSETS == (18, 12, 6, 3, 0)
    assert RECACHE_OFFSETS == (9, -3, -6, -9)
    some = KernelSettings(
        shape=PRODUCTION, device=CPU, dtype=torch.bfloat16, backends=("triton",), compiled=False
    )
    cases = {case.name: case for case in kernel_cases(some)}
    floors = {name: case.floor_ms(H200) for name, case in cases.items()}
    assert floors["attention, chunk"] == pytest.approx(0.852, abs=1e-3)
    assert floors["attention, re-cache"] == pytest.approx(2.725, abs=1e-3)
    assert floors["slot copy, store"] == pytest.approx(0.401, abs=1e-3)
    assert floors["norm + RoPE + write"] == pytest.approx(0.0139, abs=1e-4)
    # a prediction that names nothing would never be shown
    for case, name in PREDICTIONS:
        assert name in {**cases[case].ops, **cases[case].alternatives}
        assert predicted(PRODUCTION, case, name)
        assert predicted(POCKET, case, name) is None


def test_the_cpu_times_the_reference_path_and_records_the_machine(tmp_path: Path):
    told = []
    report = run_kernel_bench("cpu", SMALL, report=lambda *progress: told.append(progress))
    assert not report.faults
    assert told[-1][:2] == (len(told), len(told))
    path = tmp_path / "made" / "kernels.jsonl"
    check_appendable(path)
    assert not path.exists()
    for _ in range(2):
        append_line(path, report.as_data())
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == second
    assert first["kind"] == "kernels"
    assert (first["gpu"], first["ceilings"], first["shape"]["name"]) == (None, None, "pocket")
    assert {"torch", "triton", "python", "commit", "cpu"} <= first["machine"].keys()
    assert first["machine"]["torch"] == torch.__version__
    assert first["time"].endswith("+00:00")
    rows = [row for case in first["cases"] for row in case["rows"]]
    assert {row["status"] for row in rows} == {"timed"}
    assert {row["name"] for row in rows} == {"sdpa", "reference"}
    assert all(row["ours"] and row["timing"]["median_ms"] > 0 for row in rows)


def test_the_interpreter_checks_and_times_nothing():
    report = run_kernel_bench("cpu", replace(SMALL, num_heads=1), backend="triton")
    rows = [row for case in report.cases for row in case.rows]
    assert {row.status for row in rows} == {"checked"}
    assert {"triton", "triton, whole", "triton, split"} == {row.name for row in rows}
    assert not report.faults


def test_faults_are_named_and_infinite_errors_are_json(monkeypatch: pytest.MonkeyPatch):
    def one_bad_case(some):
        case = case_of("LayerNorm + modulation", some)
        return [replace(case, ops={"bad": lambda inputs: (inputs.x * math.nan,)})]

    monkeypatch.setattr(bench_module, "kernel_cases", one_bad_case)
    report = run_kernel_bench("cpu")
    assert report.faults == ("LayerNorm + modulation: bad",)
    data = json.loads(json.dumps(report.as_data(), allow_nan=False))
    assert data["faults"] == ["LayerNorm + modulation: bad"]
    assert data["cases"][0]["rows"][0]["error"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"device": "abacus"}, "choose cpu or cuda"),
        ({"device": "meta"}, "choose cpu or cuda"),
        ({"device": "cuda:99"}, "or cpu"),
        ({"device": "cpu", "size": "8k"}, "480p or pocket"),
        ({"device": "cpu", "size": "480p"}, "use pocket"),
        ({"device": "cpu", "backend": "cuda"}, "triton, sdpa, reference"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_one_sentence(arguments, words):
    with pytest.raises(ConfigError, match=words):
        run_kernel_bench(**arguments)


def test_the_file_is_that_of_the_checkout(tmp_path: Path):
    assert RESULTS_FILE == ROOT / "benchmarks" / "results" / "kernels.jsonl"
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OutputError, match="choose another path"):
        check_appendable(blocked / "kernels.jsonl")
    with pytest.raises(OutputError, match="choose another path"):
        append_line(tmp_path, {})


def test_refusals_are_told_by_their_reasons():
    told = (
        "Memory efficient kernel not used because: (Triggered internally at x.cpp:1.)",
        "Memory Efficient attention has been runtime disabled. (Triggered internally at x.cpp:2.)",
        "Flash attention requires q to be fp16 or bf16. (Triggered internally at x.cpp:3.)",
    )
    error = RuntimeError("No available kernel. Aborting execution.")
    assert in_words(error, *told) == "Flash attention requires q to be fp16 or bf16."
    assert in_words(error) == "refused (RuntimeError)"
    assert in_words(torch.OutOfMemoryError("CUDA out of memory. Tried ...")) == "out of memory"
    assert len(in_words(RuntimeError("x" * 1000))) == 200


class FakeEvent:
    """A CUDA event by the clock on the wall."""

    def __init__(self, *, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, end):
        return 1000 * (end.at - self.at)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(
        name="Abacus 9000",
        major=9,
        minor=0,
        multi_processor_count=132,
        total_memory=2**20,
        uuid="1234",
    )
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(timing_module, "BUDGET_MS", 1.0)
    monkeypatch.setattr(timing_module, "SIDE", 16)
    monkeypatch.setattr(timing_module, "COPY_BYTES", 4096)


@pytest.mark.usefixtures("fake_gpu")
def test_gpu_timing_runs_each_time_behind_a_flush():
    timer = GpuTimer(CPU)
    flushed = []
    flush = timer._flush
    timer._flush = lambda: flushed.append(1) or flush()  # pyright: ignore[reportAttributeAccessIssue]
    calls = []
    timing = timer(lambda: calls.append(len(flushed)))
    assert timing.low_ms <= timing.median_ms <= timing.high_ms
    assert len(calls) == timing_module.WARM_UP + 2 + timing.runs
    measured = calls[timing_module.WARM_UP + 1 :]
    assert all(later > earlier for earlier, later in itertools.pairwise(measured))
    ceilings, product_ms = measure_ceilings(timer, CPU)
    assert min(ceilings.tflops, ceilings.terabytes_per_s, product_ms) >= 0


@pytest.mark.usefixtures("fake_gpu")
def test_the_state_of_a_gpu_is_read_under_load(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def answer(*command):
        asked.append(command)
        return "580.1, 1755, 1980, 3201, 650.5, 700.00, [N/A]"

    monkeypatch.setattr(gpu_module, "command_output", answer)
    loads = []
    state = gpu_state(CPU, lambda: loads.append(1))
    assert loads
    assert "--id=GPU-1234" in asked[0]
    assert (state["name"], state["capability"], state["driver"]) == ("Abacus 9000", "9.0", "580.1")
    assert (state["sm_mhz"], state["memory_mhz"], state["power_limit_w"]) == (1755, 3201, 700)
    assert state["temperature_c"] is None
    monkeypatch.setattr(gpu_module, "command_output", lambda *_: None)
    silent = gpu_state(CPU, lambda: None)
    assert silent.keys() == state.keys()
    assert (silent["driver"], silent["sm_mhz"]) == (None, None)


def test_both_sizes_have_names():
    assert list(SIZES) == ["480p", "pocket"]
