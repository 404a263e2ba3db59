"""A Wan2.1 folder through the command, from prompts to pictures, in both layouts."""

import json
from dataclasses import replace

import imageio.v3 as iio
import pytest
import torch
from safetensors.torch import save_file
from tests.wan_transformer import CONFIG, wan_weights

from afstream.errors import CheckpointError, ConfigError, PromptError
from afstream.families.opening import open_model
from afstream.spec import ModelSpec
from afstream_cli.app import main

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from tests.wan_folder import make_wan_folder

LAYOUTS = ("original", "diffusers")
# two chunks: 9 and 12 frames, with a prompt switch between them
TIMELINE = "0:00 a red star drifts left\n0:00.5 a blue star over the meadow\n"
SWITCHED = (TIMELINE, "--duration", "21f")
# one chunk
SHORT = ("0:00 a red star drifts left\n", "--duration", "9f")
SMALL = ("--size", "32x32", "--scale", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("wan")
    return {layout: make_wan_folder(root / layout, layout=layout) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def additions(tmp_path_factory):
    """A student with a moving average, and a LoRA for it."""
    root = tmp_path_factory.mktemp("additions")
    student, lora = root / "student.pt", root / "lora.safetensors"
    last, average = (
        {f"model.{name}": value for name, value in wan_weights(seed=seed).items()}
        for seed in (1, 2)
    )
    torch.save({"generator": last, "generator_ema": average}, student)
    layer, generator = "base_model.model.blocks.0.self_attn.q", torch.Generator().manual_seed(3)
    down, up = (torch.randn(shape, generator=generator) for shape in ((4, 64), (64, 4)))
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, lora)
    return student, lora


@pytest.fixture
def generate(tmp_path, capsys):
    """Run the command; gives back the pictures' bytes and the record, or what it complained of."""

    def run(name, *given, timeline=SHORT):
        text, *length = timeline
        (tmp_path / "t.txt").write_text(text)
        out = tmp_path / name
        files = ("-p", str(tmp_path / "t.txt"), "-o", str(out))
        with pytest.raises(SystemExit) as caught:
            main(["generate", "-q", *files, *SMALL, *length, *map(str, given)])
        if caught.value.code:
            return caught.value.code, capsys.readouterr().err
        pictures = [iio.imread(path).tobytes() for path in sorted(out.glob("*.png"))]
        return pictures, json.loads(out.with_suffix(".json").read_text())

    return run


def test_both_layouts_make_the_same_video(generate, folders):
    made = {
        layout: generate(layout, "--model", folders[layout], timeline=SWITCHED)
        for layout in LAYOUTS
    }
    (pictures, record), (others, other_record) = made.values()
    assert len(pictures) == 21
    assert len(set(pictures)) == 21
    assert pictures == others
    assert (record["model"]["layout"], other_record["model"]["layout"]) == LAYOUTS
    assert record["output"]["width_px"] == 32
    assert [cue["chunk"] for cue in record["cues"]] == [0, 1]


def test_a_student_and_loras_change_the_video_and_stand_in_the_record(generate, folders, additions):
    student, lora = additions
    made, records = {}, {}
    for name, given in {
        "plain": (),
        "student": ("--student", student),
        "lora": ("--student", student, "--lora", lora),
        "none": ("--student", student, "--lora", f"{lora}:0"),
        "halves": ("--student", student, "--lora", f"{lora}:0.25", "--lora", f"{lora}:0.75"),
    }.items():
        folder = ("--model", folders["original"])
        made[name], records[name] = generate(name, *folder, *given)
    assert len({tuple(made[name]) for name in ("plain", "student", "lora")}) == 3
    assert made["none"] == made["student"]
    model = records["halves"]["model"]
    assert model["student"] == "student.pt (generator_ema, the moving average)"
    assert model["loras"] == "lora.safetensors:0.25, lora.safetensors:0.75"


def test_a_student_stands_in_for_an_absent_backbone(generate, tmp_path, additions):
    """Without any config.json the heads are Wan's own, 128 wide."""
    folder = make_wan_folder(tmp_path / "parts", layout="original")
    for piece in ("config.json", "diffusion_pytorch_model.safetensors"):
        (folder / piece).unlink()
    code, said = generate("a", "--model", folder)
    assert code == 2
    assert "lacks diffusion_pytorch_model*.safetensors" in said
    code, said = generate("b", "--model", folder, "--student", additions[0])
    assert code == 2
    assert "heads of 128" in said
    config = replace(CONFIG, dim=128, num_heads=1)
    torch.save({"generator": wan_weights(config)}, tmp_path / "wider.pt")
    given = ("--student", tmp_path / "wider.pt")
    pictures, record = generate("c", "--model", folder, *given)
    assert len(set(pictures)) == 9
    assert record["model"]["student"] == "wider.pt (generator)"


def test_complaints_are_one_sentence_and_leave_nothing(generate, tmp_path, folders, additions):
    wrong = tmp_path / "wrong.safetensors"
    save_file({"unet.weight": torch.ones(1)}, wrong)
    for name, given, words in (
        ("a", ("--model", "no/such"), "give 'pocket' (built in)"),
        ("b", ("--student", additions[0]), "needs a Wan2.1 folder"),
        ("c", ("--model", folders["original"], "--student", wrong), "is no Wan2.1 backbone"),
        ("d", ("--model", folders["original"], "--lora", wrong), "give a file of LoRA weights"),
        ("e", ("--model", tmp_path), "holds no Wan2.1 model"),
        ("f", ("--model", "random:wan-2b"), "give random:wan-1.3b or random:wan-14b"),
    ):
        code, said = generate(name, *given)
        assert code == 2
        assert words in said
        assert said.count("\n") == 1
        assert not list((tmp_path / name).glob("*"))


def test_where_parts_lie_changes_no_picture(generate, folders):
    folder = ("--model", folders["original"])
    kept, _ = generate("kept", *folder, timeline=SWITCHED)
    for given in (("--text-encoder", "cpu"), ("--text-encoder", "drop"), ("--offload", "1")):
        assert generate(f"other{given[1]}", *folder, *given, timeline=SWITCHED)[0] == kept


def test_a_dropped_text_encoder_knows_no_other_prompt(folders):
    spec = ModelSpec(name=str(folders["original"]), text="drop", device="cpu")
    model = open_model(spec, prompts=["a red star"])
    kept = open_model(replace(spec, text=None))
    assert torch.equal(*(one.text.encode(["a red star"]) for one in (model, kept)))
    with pytest.raises(PromptError, match="'a blue star' came after the text encoder was dropped"):
        model.text.encode(["a blue star"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dry_run_counts_tokens(tmp_path, folders, capsys, layout):
    def dry(words):
        (tmp_path / "t.txt").write_text("0:00 a red star\n0:05 " + words + "\n")
        with pytest.raises(SystemExit) as caught:
            main(["generate", "-p", str(tmp_path / "t.txt"), "--dry-run", "--model", folder])
        return caught.value.code, capsys.readouterr().err

    folder = str(folders[layout])
    assert dry("star " * 511) == (0, "")
    code, said = dry("star " * 512)
    assert code == 2
    assert said.startswith(f"afstream: {tmp_path / 't.txt'}:2:")
    assert "has 513 tokens; 512 are allowed, so shorten it" in said
    assert said.count("\n") == 1


def test_bench_takes_the_same_options(folders, additions, capsys):
    student, lora = additions
    with pytest.raises(SystemExit) as caught:
        main(
            "bench --json --duration 21f --switch-every 0 --size 32x32 --device cpu"
            f" --model {folders['diffusers']} --student {student} --lora {lora}:0.5".split()
        )
    assert not caught.value.code
    data = json.loads(capsys.readouterr().out)
    assert data["setup"]["model"]["loras"] == [f"{lora}:0.5"]


def test_parts_of_two_models_are_refused(folders, tmp_path):
    student = tmp_path / "s.pt"
    torch.save(wan_weights() | {"text_embedding.0.weight": torch.ones(64, 48)}, student)
    with pytest.raises(CheckpointError, match="reads text embeddings of 48 values"):
        open_model(ModelSpec(name=str(folders["original"]), student=str(student), device="cpu"))


def test_other_models_take_no_student():
    with pytest.raises(ConfigError, match="needs a Wan2"):
        open_model(ModelSpec(loras=("a.pt",)))
