"""`afstream inspect` says what memory a GPU needs, and what makes it fit one."""

import json

import pytest
import torch
from tests.memory_plan.asked import ask
from tests.wan_transformer import CONFIG, wan_weights

from afstream.config import WAN_BACKBONES
from afstream.families.wan.family import WAN
from afstream.memory_plan.estimate import estimate
from afstream.memory_plan.meta_model import MetaModel
from afstream_cli.app import main

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from tests.wan_folder import make_wan_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_wan_folder(tmp_path_factory.mktemp("wan") / "model", layout="original")


@pytest.fixture
def inspect(capsys):
    def run(*given):
        with pytest.raises(SystemExit) as caught:
            main(["inspect", *map(str, given)])
        said = capsys.readouterr()
        return caught.value.code or 0, said.out, said.err

    return run


def test_memory_is_the_estimate_of_generate(inspect, folder):
    code, out, _ = inspect(folder, "--size", "64x32", "--memory", "recache", "--json")
    data = json.loads(out)["memory"]
    assert code == 0
    assert data["model"] == str(folder)
    assert data["size_px"] == [64, 32]
    size = WAN.sized(64, 32)
    config = ask(name=str(folder), size=size, memory="recache", backend="triton", prompts=6)
    model = MetaModel.open(config, dtype="bfloat16")
    assert data["estimate"]["peak_bytes"] == estimate(model, config).peak_bytes
    assert "plan" not in data


@pytest.mark.parametrize(
    ("room", "words"),
    [
        ("2GiB", "fits 2.0 GiB as it is"),
        ("1000MiB", "fits 1000 MiB with --size 640x368"),
        ("700MiB", "does not fit 700 MiB; with"),
    ],
)
def test_the_plan_for_a_gpu(inspect, folder, room, words):
    code, out, _ = inspect(folder, "--gpu-memory", room)
    assert code == 0
    block = out[out.index("memory on a GPU") :].splitlines()
    # what matters most comes first
    assert [line.split()[0] for line in block[1:4]] == ["peak", "plan", "backbone"]
    assert words in block[2]


def test_a_student_alone_is_reckoned_with_the_published_parts(inspect, tmp_path, monkeypatch):
    student = tmp_path / "student.pt"
    torch.save({"generator": wan_weights()}, student)
    assert "memory on a GPU" not in inspect(student)[1]
    # without a config.json heads are 128 wide, so this one is read as a single head
    alone = {**{name: getattr(CONFIG, name) for name in CONFIG.__slots__}, "dim": 128}
    config = type(CONFIG)(**{**alone, "num_heads": 1})
    monkeypatch.setitem(WAN_BACKBONES, "wan-tiny", config)
    torch.save({"generator": wan_weights(config)}, student)
    code, out, _ = inspect(student, "--json")
    memory = json.loads(out)["memory"]
    assert code == 0
    assert memory["model"].endswith("with Wan2.1's own text encoder and VAE")
    parts = {part["name"]: part["bytes"] for part in memory["estimate"]["parts"]}
    # UMT5-xxl's encoder: 5.68 thousand million parameters
    assert 11.3e9 < parts["text encoder weights"] < 11.5e9


def test_published_names_are_recognised(inspect, tmp_path):
    student = tmp_path / "self_forcing_dmd.pt"
    torch.save({"generator_ema": wan_weights()}, student)
    _, out, _ = inspect(student, "--json")
    assert json.loads(out)["together"]["preset"] == "self-forcing"
    assert "self-forcing, by the files' names" in inspect(student)[1]


@pytest.mark.parametrize(
    ("option", "word", "message"),
    [
        ("--gpu-memory", "much", "give an amount of memory such as 12GiB"),
        ("--size", "65x64", "width is 65 px; it must be a multiple of 16"),
        ("--memory", "elephant", "choose one of anchor"),
    ],
)
def test_bad_values(inspect, folder, option, word, message):
    code, _, said = inspect(folder, option, word)
    assert code == 2
    assert message in said
    assert said.count("\n") == 1
