"""GGUF files: backbones, VAEs and text encoders, unpacked tensor by tensor and exactly."""

import struct
import sys
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.gguf_bytes import F32, Q8_1, Raw, gguf_bytes, q4_k, q8_0
from tests.wan_transformer import CONFIG, wan_weights

from afstream.checkpoints import BackboneSource, gguf_files, read_lora, read_loras, read_student
from afstream.checkpoints.files import file_weights
from afstream.checkpoints.kinds import FAMILY
from afstream.errors import CheckpointError
from afstream.families.registry import identify
from afstream.families.wan.convert import prepare
from afstream.families.wan.text import load_text
from afstream.families.wan.vae import load_vae
from afstream.spec import ModelSpec

gguf = pytest.importorskip("gguf")

WEIGHTS = wan_weights()
FLAT = "comfy.gguf.orig_shape."


@pytest.fixture
def path(tmp_path):
    return tmp_path / "wan-Q.gguf"


def packed_backbone():
    """A backbone with its matrices packed, a matrix and a convolution in another shape."""
    tensors: dict[str, Any] = {}
    true = dict(WEIGHTS)
    settings: dict[str, Any] = {"general.architecture": "wan", "general.file_type": 7}
    # as a text encoder has its vocabulary
    settings["tokenizer.ggml.tokens"] = ["a", "bc", ""]
    settings["tokenizer.ggml.token_type"] = [1] * 40
    for name, value in WEIGHTS.items():
        if value.ndim == 2:
            tensors[name], true[name] = q8_0(value)
        elif value.ndim == 1:
            true[name] = value.bfloat16()
            tensors[name] = true[name]
        else:
            tensors[name] = value
    name = "blocks.0.self_attn.q.weight"
    tensors[name], flat = q4_k((16, 256))
    true[name], settings[FLAT + name] = flat.view(64, 64), [64, 64]
    name = "patch_embedding.weight"
    tensors[name], settings[FLAT + name] = WEIGHTS[name].view(64, 64), list(WEIGHTS[name].shape)
    return tensors, settings, true


def source(path, loras=()):
    return BackboneSource(what="it", config=CONFIG, weights=read_student(path).weights, loras=loras)


def same(found, true, dtype=torch.float32):
    assert found.keys() == true.keys()
    for name, value in true.items():
        assert found[name].dtype == dtype, name
        assert torch.equal(found[name], value.to(dtype)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backbone_is_what_its_packed_numbers_stand_for(path, dtype):
    tensors, settings, true = packed_backbone()
    path.write_bytes(gguf_bytes(tensors, settings))
    same(source(path).build(device="cpu", dtype=dtype).state_dict(), true, dtype)
    found = identify(path)
    assert (found.kind, found.fault, found.family) == ("backbone weights", "", FAMILY)
    assert found.num_parameters == sum(value.numel() for value in WEIGHTS.values())
    assert found.dtypes["Q4_K"] == 64 * 64
    assert {"Q8_0", "Q4_K", "bfloat16", "float32"} == found.dtypes.keys()


def test_what_the_package_writes_is_read(path):
    """By its own writer and its own quantiser; the convolution has all five axes."""
    writer: Any = gguf.GGUFWriter(path, "wan")
    true = {}
    for name, value in WEIGHTS.items():
        kind = gguf.GGMLQuantizationType.Q5_1 if value.ndim == 2 else gguf.GGMLQuantizationType.F16
        data = gguf.quantize(value.numpy(), kind)
        writer.add_tensor(f"model.diffusion_model.{name}", data, raw_dtype=kind)
        true[name] = torch.from_numpy(gguf.dequantize(data, kind)).view(value.shape)
    for write in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file"):
        getattr(writer, write)()
    writer.close()
    assert true["patch_embedding.weight"].ndim == 5
    same(source(path).build(device="cpu", dtype=torch.float32).state_dict(), true)


def test_nothing_is_unpacked_before_it_is_used(path, monkeypatch):
    tensors, settings, _ = packed_backbone()
    path.write_bytes(gguf_bytes(tensors, settings))
    rows = []
    whole = gguf.dequantize

    def counted(data, kind):
        rows.append(len(data))
        return whole(data, kind)

    monkeypatch.setattr(gguf, "dequantize", counted)
    weights = read_student(path).weights
    assert identify(path).supported
    source(path).check()
    # nor where memory is counted, whatever the dtype
    for dtype in (torch.float32, torch.bfloat16):
        assert source(path).build(device="meta", dtype=dtype).dtype == dtype
    # one block of each type, to see that the package knows it
    assert set(rows) == {1}
    rows.clear()
    weights["blocks.1.ffn.0.weight"].clone()
    assert rows == [128]
    rows.clear()
    monkeypatch.setattr(gguf_files, "UNPACKED", 64 * 50)
    parts = weights["blocks.1.ffn.0.weight"] + 0
    assert rows == [50, 50, 28]
    assert torch.equal(parts, q8_0(WEIGHTS["blocks.1.ffn.0.weight"])[1])


def test_loras_are_added_to_what_numbers_stand_for(path, tmp_path):
    tensors, settings, true = packed_backbone()
    path.write_bytes(gguf_bytes(tensors, settings))
    layer = "blocks.0.self_attn.q"
    # powers of two, so that the sum is exact in any order
    pair = {f"{layer}.lora_A.weight": torch.eye(64)[:4], f"{layer}.lora_B.weight": torch.eye(64, 4)}
    save_file(pair, tmp_path / "l.safetensors")
    loras = read_loras([f"{tmp_path / 'l.safetensors'}:0.5"])
    added = torch.zeros(64, 64)
    added[range(4), range(4)] = 0.5
    true[f"{layer}.weight"] = true[f"{layer}.weight"] + added
    same(source(path, loras).build(device="cpu", dtype=torch.float32).state_dict(), true)


def test_a_converted_folder_holds_what_numbers_stand_for(models, path, tmp_path):
    tensors, settings, true = packed_backbone()
    path.write_bytes(gguf_bytes(tensors, settings))
    spec = ModelSpec(name=str(models["original"]), student=str(path), dtype="float32")
    prepare(spec).write(tmp_path / "made")
    same(file_weights(tmp_path / "made" / "backbone.safetensors"), true)


@pytest.mark.parametrize("architecture", ["t5encoder", "t5"])
def test_a_text_encoder_in_the_names_of_llama_cpp(models, path, architecture):
    """By the package's own table of names."""
    folder = models["diffusers"]
    tokenizer = folder / "tokenizer"
    plain: Any = load_text(folder / "text_encoder", tokenizer).encoder
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 2)
    tensors, expected = {}, {}
    for name, value in plain.state_dict().items():
        if name == "encoder.embed_tokens.weight":
            continue
        theirs = names.get_name(name, try_suffixes=(".weight",))
        assert theirs, name
        tensors[theirs], expected[name] = (
            q8_0(value) if value.ndim == 2 and value.shape[1] % 32 == 0 else (value, value)
        )
    assert {"token_embd.weight", "enc.blk.1.attn_rel_b.weight"} <= tensors.keys()
    path.write_bytes(gguf_bytes(tensors, {"general.architecture": architecture}))
    found: Any = load_text(path, tokenizer).encoder
    state = found.state_dict()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
    assert found.encoder.embed_tokens.weight is found.shared.weight
    assert identify(path).kind == "text encoder"


@pytest.mark.parametrize("settings", [{"general.architecture": "pig"}, {}])
def test_a_vae(models, path, settings):
    original = models["original"] / "Wan2.1_VAE.pth"
    weights = {name: value.half().float() for name, value in file_weights(original).items()}
    path.write_bytes(gguf_bytes({name: value.half() for name, value in weights.items()}, settings))
    torch.save(weights, path.with_name("plain"))
    plain = load_vae(path.with_name("plain")).autoencoder.state_dict()
    same(load_vae(path).autoencoder.state_dict(), plain)
    assert identify(path).kind == "Wan VAE"


def changed(**settings):
    tensors, before, _ = packed_backbone()
    return gguf_bytes(tensors, before | {key.replace("_", "."): settings[key] for key in settings})


def alone(tensor, **settings):
    return gguf_bytes({"a.weight": tensor}, settings or None)


def patched(at, form, value):
    whole = bytearray(alone(torch.ones(8)))
    at = whole.index(b"a.weight") + 8 + at if at >= 0 else -at
    whole[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return bytes(whole)


Q8 = q8_0(torch.ones(2, 32))[0]
SHAPES = FLAT + "a.weight"
BAD = {
    "of llama": (changed(general_architecture="llama"), "a GGUF file of 'llama', which is no part"),
    "of a number": (changed(general_architecture=7), "a GGUF file of 7, which is no part"),
    "of a list": (changed(general_architecture=[7]), r"a GGUF file of \[7\], which is no part"),
    "no unpacker": (alone(Raw(Q8_1, (1, 32), bytes(36))), "a.weight as Q8_1, which the installed"),
    "unknown type": (alone(Raw(999, (1, 32), bytes(36))), "a.weight as GGUF type 999, which"),
    "version 1": (gguf_bytes({}, version=1), "it is of version 1 of GGUF; 2 and 3 are read"),
    "big end": (gguf_bytes({}, version=3 << 24), "numbers big end first"),
    "many tensors": (gguf_bytes({}, counts=(2**60, 0)), "1,152,921,504,606,846,976 tensors"),
    "many settings": (gguf_bytes({}, counts=(0, 2**60)), "1,152,921,504,606,846,976 settings"),
    "absent tensors": (gguf_bytes({}, counts=(3, 1)), "its header is damaged: a tensor has 0 axes"),
    "cut header": (changed()[:300], "it is cut short, or its header is damaged"),
    "cut values": (changed()[:-4000], "it is cut short: .* ends behind the file"),
    "long name": (patched(-24, "<Q", 2**62), "it is cut short, or its header is damaged"),
    "no axes": (patched(0, "<I", 0), "a tensor has 0 axes, of 1 to 8"),
    "many axes": (patched(0, "<I", 2**31), "a tensor has 2147483648 axes"),
    "huge": (patched(4, "<Q", 2**63), "a tensor is larger than any file"),
    "larger than the file": (patched(4, "<Q", 2**40), "it is cut short: a.weight ends behind"),
    "odd place": (patched(16, "<Q", 8), "a tensor lies at an odd place"),
    "behind the file": (patched(16, "<Q", 2**40), "it is cut short: a.weight ends behind"),
    "odd alignment": (changed(general_alignment=24), "general.alignment is 24"),
    "odd rows": (alone(Raw(8, (2, 31), bytes(68))), "rows of 31 values, and Q8_0 packs 32"),
    "another shape": (alone(Q8, **{SHAPES: [3, 7]}), r"orig_shape.a.weight is .*, for 64 values"),
    "no shape": (alone(Q8, **{SHAPES: [-2, -32]}), r"orig_shape.a.weight is .*, for 64 values"),
    "a text for a shape": (alone(Q8, **{SHAPES: "64"}), "orig_shape.a.weight is '64', for 64"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_cannot_be_read_is_one_sentence(path, fault):
    content, words = BAD[fault]
    path.write_bytes(content)
    for read in (read_student, identify, file_weights):
        with pytest.raises(CheckpointError, match=words) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_tensors_that_share_their_values_are_refused(path):
    ones = Raw(F32, (2**20,), b"")
    tensors = {"a": ones, "b": Raw(F32, (2**20,), torch.ones(2**20).numpy().tobytes())}
    path.write_bytes(gguf_bytes(tensors))
    with pytest.raises(CheckpointError, match="tensors share their values"):
        file_weights(path)


def test_a_weight_under_two_names_is_refused(path):
    tensors = {name: torch.ones(2) for name in ("token_embd.weight", "token_embedding.weight")}
    path.write_bytes(gguf_bytes(tensors, {"general.architecture": "t5"}))
    with pytest.raises(CheckpointError, match=r"holds one weight twice, as token_embd\.weight and"):
        file_weights(path)


def test_values_that_are_not_finite_are_noticed(path):
    tensors, settings, _ = packed_backbone()
    name = "blocks.1.ffn.0.weight"
    nan = np.float16(np.nan).tobytes()
    tensors[name] = tensors[name]._replace(data=nan + tensors[name].data[2:])
    path.write_bytes(gguf_bytes(tensors, settings))
    with pytest.raises(CheckpointError, match=r"it has values in blocks\.1\.ffn\.0\.weight that"):
        source(path).build(device="cpu", dtype=torch.float32)


def test_a_lora_in_gguf_is_refused(path):
    pair = {"blocks.0.self_attn.q.lora_A.weight": torch.ones(1, 64)}
    path.write_bytes(gguf_bytes(pair | {"blocks.0.self_attn.q.lora_B.weight": torch.ones(64, 1)}))
    for read in (read_lora, identify):
        with pytest.raises(CheckpointError, match="is a GGUF file, of which afstream reads models"):
            read(path)


def test_without_the_package_the_sentence_says_what_to_install(path, monkeypatch):
    path.write_bytes(alone(torch.ones(8)))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"pip install 'afstream\[gguf\]'"):
        file_weights(path)
