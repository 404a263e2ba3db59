"""A dry run, a run and `inspect` say the same of everything, sound or faulty, in the same words."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_vae import SMALL, tiny_decoder_shapes
from tests.wan_transformer import CONFIG, DIFFUSERS, ORIGINAL, wan_weights

from afstream import stream as engine
from afstream.checkpoints.files import read_metadata
from afstream.config import WAN_BACKBONES
from afstream.errors import AfstreamError
from afstream.families.opening import open_model
from afstream.families.pocket.facts import POCKET_PATH
from afstream.families.presets import find_preset
from afstream.memory_plan import found
from afstream_cli import making as commands
from afstream_cli.making import Making

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from tests.wan_folder import make_wan_folder

T5 = "models_t5_umt5-xxl-enc-bf16.pth"
VAE = "Wan2.1_VAE.pth"
BACKBONE = "diffusion_pytorch_model.safetensors"
TOKENIZER = "google/umt5-xxl"
STAR = "0:00 a red star drifts left\n"
# what a run of one chunk takes, on the CPU
SHORT = ("--duration", "9f", "--device", "cpu", "-q")
WIDER = replace(CONFIG, dim=128, num_heads=4)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is asked for, and what is answered.

    Attributes:
        given: options of generate.
        said: a part of the refusal; empty where all is sound.
        inspected: paths that inspect is given; none where that has no option for it.
        sound: whether inspect finds no fault, for what is refused lies in no file that it sees.
        loads: whether opening the model alone, unchecked, refuses it too.
        timeline: what is played.
        environment: variables to set.
    """

    given: tuple[str, ...] = ()
    said: str = ""
    inspected: tuple[str, ...] = ()
    sound: bool = False
    loads: bool = False
    timeline: str = STAR
    environment: tuple[tuple[str, str], ...] = ()


def wan(name: str, said: str = "", *more: str, beside: tuple[str, ...] = (), **changes) -> Case:
    """A Wan folder at the smallest size; `inspect` is given the folder and what lies beside it."""
    given = ("--model", name, "--size", "32x32", *more)
    return Case(given=given, said=said, inspected=(name, *beside), loads=bool(said), **changes)


def student(name: str, said: str = "") -> Case:
    return wan("wan", said, "--student", name, beside=(name,))


def lora(name: str, said: str = "", option: str = "") -> Case:
    """A LoRA; `inspect` sees none that is refused as an option."""
    beside, sound = ((), True) if option else ((name,), False)
    return wan("wan", said, "--lora", option or name, beside=beside, sound=sound)


def vae(name: str, said: str = "") -> Case:
    return wan("wan", said, "--vae", name, beside=(name,))


def pocket(name: str, said: str = "") -> Case:
    return Case(given=("--model", name), said=said, inspected=(name,), loads=bool(said))


def option(said: str, *given: str, **changes) -> Case:
    return Case(given=given, said=said, **changes)


OPTIONS = {
    "the embedded model": Case(inspected=("pocket",)),
    "random weights": Case(given=("--model", "random:wan-tiny", "--size", "32x32")),
    "no such random weights": pocket("random:wan-2b", "there is no model 'random:wan-2b'"),
    "no such model": option("there is no model 'wam'", "--model", "wam"),
    "a word": option("t.txt:1:1: the pocket model does not know 'giraffe'", timeline="a giraffe"),
    "many words": option("reads at most 24", timeline="0:00 " + "red star " * 30),
    "a word later": option(
        "t.txt:2:1: the pocket", "--duration", "1s", timeline=f"{STAR}0:00.3 a wug\n"
    ),
    "no timeline": option("t.txt:1:1: found no cue", timeline=""),
    "a fixed size": option("makes 64x64 px only", "--size", "65x64", loads=True),
    "an odd size": option(
        "width is 65 px; it must be a multiple", "--model", "random:wan-tiny", "--size", "65x64"
    ),
    "a LoRA for the pocket": option("takes no LoRA", "--lora", "lora.safetensors", loads=True),
    "a student of nothing": option(
        "takes no student", "--model", "random:wan-tiny", "--student", "sound.safetensors"
    ),
    "layers of the pocket": option("takes no offloaded layers", "--offload", "1", loads=True),
    "too many layers": option(
        "the model has 2; give 2 at most",
        *("--model", "random:wan-tiny", "--offload", "3", "--size", "32x32"),
        loads=True,
    ),
    "a preset": option("preset is 'longlife'", "--preset", "longlife"),
    "a memory": option("memory is 'elephant'", "--memory", "elephant"),
    "a junction": option("keeps no junction", "--preset", "longlive", "--junction", "hold"),
    "a device": option("choose cpu or cuda", "--device", "toaster"),
    "a dtype": option("dtype is 'int8'", "--dtype", "int8", loads=True),
    "a backend": option("backend is 'fast'", "--backend", "fast", loads=True),
    "no compiler": option(
        "compiling needs one of g++", "--compile", environment=(("PATH", ""),), loads=True
    ),
    "little memory": option(
        "of GPU memory, and 400 MiB are there",
        *("--model", "random:wan-tiny", "--gpu-memory", "400MiB"),
    ),
    "a scale": option("more than H.264 allows", "--scale", "1000"),
    "a quality": option("crf is 99", "--crf", "99"),
    "a suffix": option("ends in '.avi'", "-o", "film.avi"),
    "a film that is there": option("exists already", "-o", "there.mp4"),
    "another's record": option("is no run record of afstream", "-o", "other.mp4"),
    "a sheet": option("must end in .png", "--sheet", "s.jpg"),
    "the prompts as the video": option("is both the prompts and", "-o", "t.txt"),
    "one place for two": option("is both the video and", "-o", "a.mp4", "--record", "a.mp4"),
    "no length": option("--exact needs a length", "--exact"),
    "subtitles": option("choose one of srt", "--subtitles", "txt"),
    "resuming nothing": option("--resume needs --out", "--resume"),
}

FILES = {
    "a pocket file": pocket("pocket.safetensors"),
    "a pocket file without a weight": pocket("less.safetensors", "1 missing"),
    "a pocket file of another shape": pocket("shape.safetensors", "does not fit the model"),
    "a pocket file of no kind": pocket("kind.safetensors", "its settings lack"),
    "a pocket file cut short": pocket("cut.safetensors", "cut short"),
    "a Wan folder": wan("wan"),
    "a Wan folder of diffusers": wan("wan-d"),
    "its encoder on the cpu": wan("wan", "", "--text-encoder", "cpu"),
    "its encoder dropped": wan("wan", "", "--text-encoder", "drop"),
    "too many tokens": wan(
        "wan", "has 513 tokens; 512 are allowed", timeline="0:00 " + "star " * 512, sound=True
    ),
    "no tiny VAE": wan("wan", "has no tiny VAE", "--vae", "tiny", sound=True),
    "an empty folder": wan("empty", "holds no Wan2.1 model"),
    "no VAE": wan("no-vae", f"lacks {VAE}"),
    "no encoder": wan("no-t5", f"lacks {T5}"),
    "no tokenizer": wan("no-tokenizer", f"lacks {TOKENIZER}"),
    "image to video": wan("i2v", "describes Wan image-to-video"),
    "image to video of diffusers": wan("i2v-d", "describes Wan image-to-video"),
    "Wan2.2 5B with its own VAE": wan("ti2v", "describes Wan2.2 5B"),
    "two backbones": wan("two", "describes Wan2.2 (two backbones)"),
    "settings that are none": wan("settings", "cannot be read as a model's config.json"),
    "a folder without a layer": wan("layer", "does not fit"),
    "a pointer in the encoder's place": wan("pointer", "is a git-lfs pointer"),
    "an encoder without a weight": wan("t5-less", "1 missing"),
    "an encoder with one more": wan("t5-more", "1 unknown, for example zz"),
    "a tokenizer that is none": wan("tokenizer", "cannot be read as a tokenizer"),
    "a tokenizer of another": wan("tokens", "tokens, the text encoder"),
    "a VAE without a weight": wan("vae-less", "does not fit the model"),
    "a student": student("sound.safetensors"),
    "a student in eight bits": student("fp8.safetensors"),
    "whole numbers without scales": student("int8.safetensors", "as int8 without a scale"),
    "half a student": student("half.safetensors", "missing, for example blocks.0.cross_attn"),
    "a student with gates": student("gates.safetensors", "unknown, for example blocks.0.to_gate"),
    "a student that hears other text": student("deaf.safetensors", "reads text embeddings of 48"),
    "a VAE as the student": wan("wan", "it holds a Wan VAE", "--student", f"wan/{VAE}", sound=True),
    "a LoRA": lora("lora.safetensors"),
    "a LoRA of another base": lora("wider-lora.safetensors", "is for another base"),
    "a LoRA that is none": lora("", "is no part of a LoRA", "sound.safetensors"),
    "a LoRA of no strength": lora("", "the scale of LoRA", "lora.safetensors:nan"),
    "a LoRA that is not there": lora("", "no checkpoint at no.pt", "no.pt"),
    "another VAE": vae(f"other/{VAE}"),
    "a tiny VAE": vae("taew2_1.safetensors"),
    "a tiny VAE of no name": vae("small.safetensors", "does not tell how it reads latents"),
    "a VAE of 48 channels": vae("vae48.pth", "has 48 latent channels"),
    "half a VAE": vae("half.pth", "does not fit the model"),
}
CASES = OPTIONS | FILES


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that a case names."""
    path = tmp_path_factory.mktemp("checks")
    make_wan_folder(path / "wan", layout="original")
    make_wan_folder(path / "wan-d", layout="diffusers")
    write_pockets(path)
    write_students(path)
    write_vaes(path)
    write_folders(path)
    (path / "there.mp4").write_bytes(b"a film")
    (path / "other.json").write_text("{}")
    return path


def write_pockets(path: Path) -> None:
    weights, metadata = load_file(POCKET_PATH), read_metadata(POCKET_PATH)
    name, *rest = sorted(weights)
    less = {name: weights[name] for name in rest}
    for file, content, kind in (
        ("pocket", weights, metadata),
        ("less", less, metadata),
        ("shape", less | {name: weights[name].flatten()[:1]}, metadata),
        ("kind", weights, {"kind": metadata["kind"]}),
    ):
        save_file(content, path / f"{file}.safetensors", kind)
    (path / "cut.safetensors").write_bytes(POCKET_PATH.read_bytes()[:100])


def write_students(path: Path) -> None:
    weights = wan_weights(seed=1)
    linear = [name for name in weights if name.startswith("blocks.") and weights[name].ndim == 2]
    wide = [name for name in linear if name.endswith("ffn.0.weight")]
    eight = {name: weights[name].to(torch.float8_e4m3fn) for name in wide}
    scales = {f"{name}_scale": torch.tensor(0.5) for name in wide}
    small = {name: weights[name].mul(100).to(torch.int8) for name in wide}
    gate = {"blocks.0.to_gate_compress.weight": torch.zeros(64, 64)}
    deaf = {"text_embedding.0.weight": torch.ones(64, 48)}
    half = {name: value for name, value in weights.items() if "cross_attn" not in name}
    for name, content in (
        ("sound", weights),
        ("fp8", weights | eight | scales),
        ("int8", weights | small),
        ("half", half),
        ("gates", weights | gate),
        ("deaf", weights | deaf),
    ):
        save_file(content, path / f"{name}.safetensors")
    for name, width in (("lora", 64), ("wider-lora", 128)):
        layer = "diffusion_model.blocks.0.self_attn.q"
        down, up = torch.ones(4, width), torch.ones(width, 4)
        pair = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
        save_file(pair, path / f"{name}.safetensors")


def write_vaes(path: Path) -> None:
    tiny = {name: torch.zeros(shape) for name, shape in tiny_decoder_shapes(SMALL).items()}
    for name in ("taew2_1", "small"):
        save_file(tiny, path / f"{name}.safetensors")
    weights = torch.load(path / "wan" / VAE)
    more = {"conv2.weight": torch.ones(48, 48, 1, 1, 1)}
    torch.save(weights | more, path / "vae48.pth")
    half = {name: value for name, value in weights.items() if name != "conv2.bias"}
    torch.save(half, path / "half.pth")
    (path / "other").mkdir()
    torch.save(weights, path / "other" / VAE)


def write_folders(path: Path) -> None:
    def copy(name: str, *, of: str = "wan") -> Path:
        return Path(shutil.copytree(path / of, path / name))

    def settings(place: Path, **changes: object) -> None:
        content = DIFFUSERS if place.name == "transformer" else ORIGINAL
        (place / "config.json").write_text(json.dumps(content | changes))

    def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        weights = torch.load(file)
        change(weights)
        torch.save(weights, file)

    (path / "empty").mkdir()
    (copy("no-vae") / VAE).unlink()
    (copy("no-t5") / T5).unlink()
    shutil.rmtree(copy("no-tokenizer") / TOKENIZER)
    settings(copy("i2v"), model_type="i2v", in_dim=36)
    settings(copy("i2v-d", of="wan-d") / "transformer", in_channels=36)
    settings(copy("ti2v"), model_type="ti2v", in_dim=48, out_dim=48)
    (path / "ti2v" / VAE).rename(path / "ti2v" / "Wan2.2_VAE.pth")
    (copy("two") / "high_noise_model").mkdir()
    (copy("settings") / "config.json").write_text("{")
    whole = load_file(copy("layer") / BACKBONE)
    first = {name: value for name, value in whole.items() if name != "blocks.1.norm3.bias"}
    save_file(first, path / "layer" / BACKBONE)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 11361920418\n"
    (copy("pointer") / T5).write_text(pointer)
    changed(copy("t5-less") / T5, lambda weights: weights.pop("norm.weight"))
    changed(copy("t5-more") / T5, lambda weights: weights.update(zz=torch.ones(2)))
    changed(copy("vae-less") / VAE, lambda weights: weights.pop("conv2.bias"))
    (copy("tokenizer") / TOKENIZER / "tokenizer.json").write_text('{"model": {}}')

    def fewer(weights: dict[str, torch.Tensor]) -> None:
        weights["token_embedding.weight"] = weights["token_embedding.weight"][:8].clone()

    changed(copy("tokens") / T5, fewer)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Making]:
    """What a command was about to make."""
    seen: list[Making] = []
    check = commands.check_making

    def noted(making: Making) -> engine.Checked:
        seen.append(making)
        return check(making)

    monkeypatch.setattr(commands, "check_making", noted)
    return seen


def loaded(making: Making) -> str:
    """What opening the model says, and playing its timeline, without any check before it."""
    config = making.config
    like = find_preset(config.preset, config.model)
    assert making.timeline
    try:
        spec = config.model
        opened = open_model(spec, prompts=config.prompts, like=like, compiled=config.compiled)
        stream = engine.Stream(opened, config)
        stream.play(making.timeline).close()
    except AfstreamError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting the memory that `inspect` shows takes seconds, and it has tests of its own."""
    monkeypatch.setattr(found, "fit_found", lambda *_: None)


@pytest.mark.parametrize("name", CASES)
def test_all_say_the_same(
    name: str, root: Path, command, asked: list[Making], monkeypatch: pytest.MonkeyPatch
):
    case = CASES[name]
    monkeypatch.setitem(WAN_BACKBONES, "wan-tiny", CONFIG)
    monkeypatch.chdir(root)
    for variable, value in case.environment:
        monkeypatch.setenv(variable, value)
    (root / "t.txt").write_text(case.timeline)
    where = () if "-o" in case.given or "--resume" in case.given else ("-o", "out/film.mp4")
    length = tuple(word for word in SHORT if "--exact" not in case.given or word not in SHORT[:2])
    words = ("generate", "-p", "t.txt", *where, *length, *case.given)

    dry = command(*words, "--dry-run")
    assert not (root / "out").exists()
    assert dry.code == (2 if case.said else 0), dry.err
    assert case.said in dry.err
    assert dry.err.count("\n") == bool(case.said)
    assert bool(dry.out) != bool(case.said)
    # what is refused is refused before anything is loaded
    if asked:
        alone = loaded(asked[-1])
        # which knows no line of a timeline
        assert dry.err.rstrip().endswith(alone), "the check is behind"
        assert bool(alone) or not case.loads

    with monkeypatch.context() as patch:
        if case.said:
            patch.setattr(engine, "open_model", lambda *_, **__: pytest.fail("it was opened"))
        run = command(*words)
    assert (run.code, run.err) == (dry.code, dry.err)
    shutil.rmtree(root / "out", ignore_errors=True)

    if case.inspected:
        seen = command("inspect", *case.inspected)
        lines = seen.err.splitlines()
        if case.said and not case.sound:
            assert seen.code == 2
            assert dry.err.strip() in lines
        else:
            assert (seen.code, lines) == (0, [])


@pytest.mark.parametrize(
    "name", ["half a student", "a student with gates", "a tiny VAE of no name", "half a VAE"]
)
def test_a_part_alone_is_refused_in_the_same_words(name: str, root: Path, command, monkeypatch):
    monkeypatch.chdir(root)
    _, *beside = CASES[name].inspected
    done = command("inspect", *beside)
    assert done.code == 2
    assert CASES[name].said in done.err
    assert done.err.count("\n") == 1
