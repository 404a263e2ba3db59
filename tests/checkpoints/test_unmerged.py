"""Students that PEFT saved with their LoRA beside the weights: merged exactly, or refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.lora_files import LAYERS, RANK, expected, pair
from tests.wan_transformer import CONFIG, wan_weights

from afstream.checkpoints import BackboneSource, merge_loras, read_lora, read_loras, read_student
from afstream.errors import CheckpointError
from afstream.families.registry import identify
from afstream.families.wan.convert import prepare
from afstream.spec import ModelSpec

WEIGHTS = wan_weights()
PREFIX = "base_model.model."
SAID = {"r": RANK, "lora_alpha": 3 * RANK}


def dump(prefix=PREFIX):
    """A model's weights, those of some layers with a pair beside them."""
    named = {}
    for name, value in WEIGHTS.items():
        layer, _, end = name.rpartition(".")
        named[prefix + (f"{layer}.base_layer.{end}" if layer in LAYERS else name)] = value
    for layer in LAYERS:
        for word, half in zip(("lora_A", "lora_B"), pair(layer), strict=True):
            named[f"{prefix}{layer}.{word}.default.weight"] = half
    return named


AROUND = {
    "the file": lambda: {"ema_model": dump(), "lora_config": SAID, "step": 7},
    "an entry": lambda: {"generator": dump("model." + PREFIX), "lora_config": SAID},
    "flat": lambda: {**dump(), "lora_alpha": 3 * RANK},
}


def check(path):
    """See that three times each pair is added, and nothing else is changed."""
    wanted = expected(dict.fromkeys(LAYERS, 3.0))
    weights = read_student(path).weights
    built = BackboneSource(what="it", config=CONFIG, weights=weights).build(
        device="cpu", dtype=torch.float32
    )
    found = built.state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name.removesuffix(".weight") in LAYERS:
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
        else:
            assert torch.equal(found[name], value), name
    said = identify(path)
    assert said.kind in ("student", "backbone weights")
    assert not said.fault


@pytest.mark.parametrize("kind", AROUND)
def test_alpha_is_read_from_the_file(tmp_path, kind):
    torch.save(AROUND[kind](), tmp_path / "s.pt")
    check(tmp_path / "s.pt")


@pytest.mark.parametrize("name", ["s.safetensors", "adapter_model.safetensors"])
def test_alpha_is_read_beside_the_file(tmp_path, name):
    save_file(dump(), tmp_path / name)
    (tmp_path / "adapter_config.json").write_text(json.dumps(SAID))
    check(tmp_path / name)


def test_alpha_is_read_from_the_header(tmp_path):
    save_file(dump(), tmp_path / "s", {"lora_alpha": str(3 * RANK)})
    check(tmp_path / "s")


@pytest.mark.parametrize("content", [dump, lambda: {"generator": dump()}])
def test_without_an_alpha_it_is_refused(tmp_path, content):
    path = tmp_path / "s.pt"
    torch.save(content(), path)
    for read in (read_student, identify):
        with pytest.raises(CheckpointError, match=r"nothing says its alpha; put PEFT's adapter_c"):
            read(path)


def test_it_is_merged_as_the_same_lora_in_a_file_of_its_own(tmp_path):
    """Bit for bit; and another LoRA may come on top."""
    save_file(dump(), tmp_path / "s.safetensors", {"lora_alpha": "6"})
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    pairs = {name: value for name, value in dump().items() if "lora_" in name}
    save_file(pairs, tmp_path / "l.safetensors", {"lora_alpha": "6"})
    loras = read_loras([str(tmp_path / "l.safetensors")])
    merged = merge_loras(read_student(tmp_path / "w.safetensors").weights, loras)
    found = read_student(tmp_path / "s.safetensors").weights
    assert all(torch.equal(found[name], value) for name, value in merged.items())
    twice = merge_loras(found, loras)[f"{LAYERS[0]}.weight"]
    wanted = expected({LAYERS[0]: 2 * 6 / RANK})[f"{LAYERS[0]}.weight"]
    torch.testing.assert_close(twice, wanted, rtol=0, atol=1e-5)


def test_on_a_base_in_eight_bits(tmp_path):
    path, name = tmp_path / "s.safetensors", f"{PREFIX}{LAYERS[0]}.base_layer.weight"
    content = dump()
    content[name] = stored = content[name].to(torch.float8_e4m3fn)
    content[f"{name}_scale"] = torch.tensor(0.5)
    save_file(content, path, {"lora_alpha": str(RANK)})
    down, up = pair(LAYERS[0])
    found = read_student(path).weights[f"{LAYERS[0]}.weight"]
    torch.testing.assert_close(found + 0, stored.float() / 2 + up @ down, rtol=0, atol=1e-5)
    assert identify(path).dtypes["float8_e4m3fn"] == stored.numel()


def test_a_converted_folder_holds_the_merged_weights(models, tmp_path):
    torch.save(AROUND["the file"](), tmp_path / "s.pt")
    spec = ModelSpec(name=str(models["original"]), student=str(tmp_path / "s.pt"), dtype="float32")
    prepare(spec).write(tmp_path / "made")
    found = read_student(tmp_path / "made").weights
    merged = read_student(tmp_path / "s.pt").weights
    assert all(torch.equal(found[name], value) for name, value in merged.items())


Q = "blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{Q}.lora_A.style.weight": torch.ones(4, 64)}, "holds more than one adapter"),
        ({"use_dora": True}, "is a DoRA"),
        ({f"{Q}x.lora_A.default.weight": torch.ones(4, 64)}, "is of an unknown layout"),
        ({f"{Q}.lora_A.default.weight": torch.ones(4, 32)}, "is for another base"),
    ],
)
def test_other_kinds_are_refused(tmp_path, change, words):
    path = tmp_path / "s.pt"
    torch.save({**dump(""), "lora_alpha": 4, **change}, path)
    for read in (read_student, identify):
        with pytest.raises(CheckpointError, match=words):
            read(path)


def test_such_a_student_is_no_lora(tmp_path):
    save_file(dump(), tmp_path / "s.safetensors")
    with pytest.raises(CheckpointError, match=r"not merged yet .*; give it as the student"):
        read_lora(tmp_path / "s.safetensors")
