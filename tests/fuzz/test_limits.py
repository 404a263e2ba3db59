"""Files made to fill memory or to take for ever: refused within bounds of both."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.fuzz.parsers import pack_header
from tests.gguf_bytes import gguf_bytes
from tests.wan_transformer import CONFIG, wan_weights

# the issue's: for any file, beyond what the command itself takes; a slow machine gets more time
MOST_MB = 500
MOST_S = 10


def entries(count):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return pack_header(json.dumps({f"n{index}": entry for index in range(count)}).encode(), 0)


def torch_file(path, pickle, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
        with archive.open("a/data.pkl", "w", force_zip64=True) as file:
            for part in pickle:
                file.write(part)


def save_old(path, content):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def many_records(path):
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(15_000):
            archive.writestr(f"a/data/{index:0100}", b"")


def deep_backbone(path):
    """A small file of so many layers that only its names are many."""
    weights = {name: value for name, value in wan_weights(CONFIG).items() if "blocks" not in name}
    layer = torch.zeros(1).expand(64, 64)
    weights |= {f"blocks.{index}.ffn.0.weight": layer for index in range(8000)}
    torch.save(weights, path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files and folders by name, all of them small on disk."""
    root = tmp_path_factory.mktemp("limits")
    pages = [b"N0" * 2**19]
    (root / "too many tensors.safetensors").write_bytes(entries(60_000))
    (root / "as many as allowed.safetensors").write_bytes(entries(50_000))
    with (root / "a header of 90 MB.safetensors").open("wb") as file:
        file.write((90_000_000).to_bytes(8, "little"))
        file.truncate(90_000_008)
    (root / "a long name.safetensors").write_bytes(
        pack_header(
            json.dumps(
                {"n" * 10**7: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}
            ).encode()
        )
    )
    torch_file(root / "200 MB.pt", [b"\x80\x02", *pages * 200, b"."], zipfile.ZIP_DEFLATED)
    torch_file(root / "sets.pt", [b"\x80\x02", b"\x8f" * 1_190_000, b"."])
    torch_file(root / "bytes.pt", [b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x20\x85R."])
    many_records(root / "many records.pt")
    deep_backbone(root / "8000 layers.pt")
    save_old(root / "old, 3000 tensors.pt", {f"n{n}": torch.zeros(1) for n in range(3000)})
    save_old(root / "old, 20,000 tensors.pt", {f"n{n}": torch.zeros(1) for n in range(20_000)})
    ones = torch.ones(1)
    names = {f"n{number}": ones for number in range(50_000)}
    (root / "as many tensors as allowed.gguf").write_bytes(gguf_bytes(names))
    (root / "too many tensors.gguf").write_bytes(gguf_bytes(names | {"a": ones}))
    words = ["\u2581word"] * 1_000_000
    for more in (0, 1):
        settings = {"general.architecture": "t5", "tokenizer.ggml.tokens": words + ["a"] * more}
        (root / f"a million words and {more}.gguf").write_bytes(gguf_bytes({"a": ones}, settings))
    for name, target in (("zero.safetensors", "/dev/zero"), ("loop.pt", "loop.pt")):
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.pt")
    save_file({"a": torch.ones(1)}, root / "ok.safetensors")
    for name in (
        "a config that is a pipe",
        "a config of zeros",
        "a config of 20 MB",
        "an index of 300,000 names",
    ):
        (root / name).mkdir()
    os.mkfifo(root / "a config that is a pipe" / "config.json")
    (root / "a config of zeros" / "config.json").symlink_to("/dev/zero")
    (root / "a config of 20 MB" / "config.json").write_text('{"a": "%s"}' % ("x" * 20_000_000))
    index = {"weight_map": {f"a{number}": f"{number}.safetensors" for number in range(300_000)}}
    stem = "diffusion_pytorch_model.safetensors"
    (root / "an index of 300,000 names" / f"{stem}.index.json").write_text(json.dumps(index))
    (root / "an index of 300,000 names" / "config.json").write_text('{"model_type": "t2v"}')
    return root


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux counts it")
def test_inspect_takes_little_memory_and_time_for_any_file(made):
    paths = sorted(made.iterdir())
    script = Path(__file__).with_name("limited_inspect.py")
    ran = subprocess.run(
        [sys.executable, str(script), *map(str, paths)],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
    )
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(results) == len(paths)
    for result in results:
        assert result["code"] in (0, 2), result
        assert result["mb"] < MOST_MB, result
        assert result["s"] < MOST_S, result
        said = result["said"].rstrip("\n")
        assert said.startswith("afstream: ") or result["code"] == 0, result
        assert "\n" not in said, result
        assert len(said) < 1000, result
