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
    (run,) = json.loads(table.read_text())
    kernels = run["kernels"]
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
    monkeypatch.setitem(check.__globals__, "_serialized", lambda *_: [])
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


OLD_FORM = """
import sys
from functools import partial
import cross_compile as gate
from afstream_kernels.triton.tiles import Tile
made = []
for launch in gate.attention_launches():
    if launch.op in ("attention, whole", "attention, float16"):
        tile = Tile(128, 128, 8, 2, descriptors=True, carried=False)
        launch = launch._replace(run=partial(launch.run, tile=tile))
        made += gate.compile_for(90, [launch])
assert [row.fault for row in made] == ["C7513: matrix instructions are serialized"] * 2, made
"""


def test_a_query_made_within_the_loop_serializes_hoppers_matrix_instructions():
    """The kernel as it once was: nothing spills, and every product waits for the one before."""
    paths = os.pathsep.join([str(SCRIPT.parent), *sys.path])
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", OLD_FORM], env=environment, check=True)


USAGE = " Function f:\n  REG:202 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:1 TEXTURE:0 SURFACE:0"


@pytest.mark.parametrize(
    ("sass", "spilled"),
    [("STL.64 [R1], RZ ;", 0), ("STL [R1], R2 ;\nLDL.LU R0, [R1] ;", 8)],
    ids=["a frame that is never read", "a spill"],
)
def test_only_what_is_read_back_is_a_spill(gate, monkeypatch, sass, spilled):
    said = {"-res-usage": USAGE, "-sass": sass}
    monkeypatch.setitem(gate._usage.__globals__, "_dump", lambda _, what: said[what])
    assert gate._usage(b"") == (202, spilled)


def test_runs_of_other_versions_are_kept(gate, tmp_path):
    table = tmp_path / "table.json"
    table.write_text(json.dumps([{"torch": "2.9", "triton": "3.5", "kernels": []}]))
    for _ in range(2):
        gate._keep(table, [])
    assert [run["triton"] for run in json.loads(table.read_text())] == [
        "3.5",
        gate.triton.__version__,
    ]
