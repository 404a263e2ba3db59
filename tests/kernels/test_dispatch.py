"""Which backend is chosen, and why one is refused."""

import importlib.util
import subprocess
import sys
import textwrap

import pytest
import torch
from tests.kernels.cases import make_case, random

from afstream_kernels import (
    BACKENDS,
    Backend,
    choose_backend,
    copy_slots,
    dispatch,
    modulate,
    norm_rope,
    norm_rope_write,
)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    dispatch.triton_unavailable_reason.cache_clear()
    yield
    dispatch.triton_unavailable_reason.cache_clear()


@pytest.fixture
def without_triton(monkeypatch):
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None):
        return None if name == "triton" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.fixture
def without_interpreter(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_what_is_pure_torch_runs_everywhere(backend, dtype, without_triton):
    assert choose_backend(backend, device="cpu", dtype=dtype).name == backend


@pytest.mark.parametrize("dtype", dispatch.TRITON_DTYPES, ids=str)
def test_triton_runs_in_the_interpreter(dtype):
    pytest.importorskip("triton")
    assert choose_backend("triton", device="cpu", dtype=dtype) == Backend("triton", fused=True)


@pytest.mark.parametrize("name", [None, "auto"])
def test_on_a_cpu_auto_is_torchs_own_attention(name):
    assert choose_backend(name, device="cpu", dtype=torch.float32).name == "sdpa"


@pytest.mark.parametrize("fits", [True, False], ids=["fits", "hindered"])
def test_on_a_gpu_auto_is_triton_where_it_can_run(fits, monkeypatch):
    reason = None if fits else "too old"
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "triton_unavailable_reason", lambda *_: reason)
        chosen = choose_backend(device="cuda", dtype=torch.bfloat16)
    assert chosen == Backend("triton" if fits else "sdpa", fused=fits)


def test_the_environment_decides_where_no_name_is_given(monkeypatch):
    monkeypatch.setenv("AFSTREAM_BACKEND", "reference")
    assert choose_backend(device="cpu", dtype=torch.float32).name == "reference"
    assert choose_backend("sdpa", device="cpu", dtype=torch.float32).name == "sdpa"
    assert choose_backend("auto", device="cpu", dtype=torch.float32).name == "sdpa"


def test_an_unknown_name_is_answered_with_what_is_allowed(monkeypatch):
    allowed = "choose auto, triton, sdpa, reference"
    with pytest.raises(ValueError, match=f"backend is 'cudnn'; {allowed}"):
        choose_backend("cudnn", device="cpu", dtype=torch.float32)
    monkeypatch.setenv("AFSTREAM_BACKEND", "flash")
    with pytest.raises(ValueError, match=f"AFSTREAM_BACKEND is 'flash'; {allowed}"):
        choose_backend(device="cpu", dtype=torch.float32)


def refusal(dtype: torch.dtype = torch.float32) -> str:
    with pytest.raises(ValueError, match=r"cannot run here: .*; use auto") as refused:
        choose_backend("triton", device="cpu", dtype=dtype)
    return str(refused.value)


def test_triton_is_refused_where_it_is_not_installed(without_triton):
    assert "triton is not installed" in refusal()


def test_triton_is_refused_for_float64():
    pytest.importorskip("triton")
    assert "it has no float64" in refusal(torch.float64)


def test_triton_is_refused_on_a_cpu_without_its_interpreter(without_interpreter):
    assert "the device is cpu, and TRITON_INTERPRET=1 is not set" in refusal()


def test_triton_is_refused_on_a_gpu_without_matrix_products(without_interpreter, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    reason = dispatch.triton_unavailable_reason(torch.device("cuda", 0), torch.float16)
    assert reason == "the GPU is older than compute capability 8.0"


def test_under_sdpa_other_operations_stay_in_torch_on_a_cpu():
    chosen = [choose_backend(name, device="cpu", dtype=torch.float32) for name in BACKENDS]
    assert [backend.fused for backend in chosen] == [True, False, False]


def test_without_triton_everything_still_runs():
    code = """
        import sys
        sys.modules["triton"] = None
        import torch
        import afstream_kernels as K
        x, weight, keys = torch.ones(1, 3, 64), torch.ones(64), torch.ones(1, 2, 3, 2, 32)
        tables, shift = torch.ones(2, 3, 16).unbind(), K.rope_shift_tables([3], head_dim=32)
        q = K.norm_rope(x, weight, *tables, num_heads=2, eps=1e-6)
        K.norm_rope_write(x, x, weight, weight, *tables, keys, [1], eps=1e-6)
        K.slot_attention(q, keys, keys, [1], *shift, own=(q, q))
        K.modulate(x[:, None], weight, weight, eps=1e-6)
        K.copy_slots(keys[None], keys[None], keys[None], keys[None], [0], [1])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_operation_refuses_a_backend_that_cannot_run():
    pytest.importorskip("triton")
    case = make_case(num_tokens=3, slot_tokens=3).wide()
    x, weight = random(1, 3, 64, dtype=torch.float64), random(64, dtype=torch.float64)
    cos, sin = random(2, 3, 16, dtype=torch.float64)
    keys, frames = case.keys[:1], x[:, None]
    held = keys[None]
    calls = {
        "slot_attention": lambda: case.attend("triton"),
        "slot_attention_lse": lambda: case.attend_lse("triton"),
        "norm_rope": lambda: norm_rope(
            x, weight, cos, sin, num_heads=2, eps=1e-6, backend="triton"
        ),
        "norm_rope_write": lambda: norm_rope_write(
            x, x, weight, weight, cos, sin, keys, [1], eps=1e-6, backend="triton"
        ),
        "modulate": lambda: modulate(frames, weight, weight, eps=1e-6, backend="triton"),
        "copy_slots": lambda: copy_slots(held, held, held, held, [0], [1], backend="triton"),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match="float64"):
            call()
