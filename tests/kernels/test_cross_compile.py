"""The kernels compiled for chips that are not here: nothing spills, the matrix units are used."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")

MATRIX_OPS = ("attention, whole", "attention, split", "backward, queries", "backward, own keys")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cross_compile.py"


@pytest.fixture
def gate(monkeypatch):
    # the script turns the interpreter off where it is read; here that must not last
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="cross_compile"))


def test_every_kernel_fits_every_chip(tmp_path, gate):
    table = tmp_path / "table.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(table)],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = json.loads(table.read_text())["kernels"]
    ops = {launch.op for launch in gate.launches()}
    for chip in gate.CHIPS:
        rows = [row for row in kernels if row["chip"] == chip]
        assert {row["op"] for row in rows} == ops
        for row in rows:
            assert row["fault"] == ""
            assert row["spilled_bytes"] == 0
            assert row["shared_bytes"] <= gate.SHARED[chip]
    half = [row for row in kernels if row["op"] in MATRIX_OPS]
    assert {row["kernel"] for row in half if not row["matrix"]} == {"merge_kernel"}
    assert all(row["wide"] for row in kernels if row["kernel"] == "norm_rope_write_kernel")


def made(*, shared: int, ptx: str):
    return SimpleNamespace(
        asm={"cubin": b"", "ptx": ptx}, metadata=SimpleNamespace(shared=shared, num_warps=8)
    )


@pytest.mark.parametrize(
    ("shared", "ptx", "usage", "fault"),
    [
        (1024, "wgmma.mma_async", (168, 0), ""),
        (1024, "wgmma.mma_async", (255, 16), "spills 16 bytes"),
        (300_000, "wgmma.mma_async", (168, 0), "more shared memory than 232448 bytes"),
        (1024, "mma.sync", (168, 0), "no wgmma.mma_async"),
        (300_000, "mma.sync", (255, 8), "spills 8 bytes, more shared memory than 232448 bytes"),
    ],
    ids=["fine", "spills", "oversized", "slow path", "all at once"],
)
def test_what_does_not_fit_is_noticed(gate, monkeypatch, shared, ptx, usage, fault):
    check = gate._read
    monkeypatch.setitem(check.__globals__, "_usage", lambda _: usage)
    kernel = SimpleNamespace(fn=SimpleNamespace(__name__="forward_kernel"))
    launch = gate.Launch("attention", lambda: None, matrix=True)
    assert check(launch, 90, kernel, made(shared=shared, ptx=ptx)).fault.startswith(fault)
    assert bool(check(launch, 90, kernel, made(shared=shared, ptx=ptx)).fault) == bool(fault)


@pytest.mark.parametrize(
    ("ptx", "is_wide"),
    [
        ("ld.global.v4.b32 st.global.v4.b32", True),
        ("ld.global.L1::evict_last.v4.b32 st.global.b32", False),
        ("ld.global.b16 st.global.v4.b32", False),
    ],
)
def test_narrow_reads_and_writes_are_noticed_where_bytes_count(gate, monkeypatch, ptx, is_wide):
    check = gate._read
    monkeypatch.setitem(check.__globals__, "_usage", lambda _: (32, 0))
    kernel = SimpleNamespace(fn=SimpleNamespace(__name__="copy_slots_kernel"))
    launch = gate.Launch("slot copy", lambda: None, wide=True)
    row = check(launch, 90, kernel, made(shared=0, ptx=ptx))
    assert row.fault == ("" if is_wide else "reads or writes less than 16 bytes at a time")
