"""A Wan folder's parts, estimated from headers and held against the loaded ones."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tests.memory_plan.asked import ask
from tests.wan_transformer import CONFIG, wan_weights

from afstream.bench.machine import resident_bytes
from afstream.config import WAN_BACKBONES
from afstream.errors import ConfigError
from afstream.families.opening import open_model
from afstream.families.presets import LENGTHS
from afstream.families.wan.family import WAN
from afstream.families.wan.tiny import PUBLIC_WIDTHS, TinyDecoder, TinyVae
from afstream.families.wan.vae import load_vae
from afstream.kvcache.memories import memory_policy
from afstream.memory_plan import fit as fitting
from afstream.memory_plan.count import LiveBytes, held_bytes, weights_of
from afstream.memory_plan.estimate import estimate
from afstream.memory_plan.fit import best_fit, oom_message, smaller_sizes, text_places
from afstream.memory_plan.found import published
from afstream.memory_plan.meta_model import MetaModel, count_decoding, open_meta
from afstream.memory_plan.units import GIB, MIB, show_bytes
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec, StreamConfig
from afstream.stream import Stream
from afstream_kernels.dispatch import Backend

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from tests.wan_folder import make_wan_folder

LAYOUTS = ("original", "diffusers")
ANCHOR = memory_policy("anchor", LENGTHS)
SMALL = WAN.sized(64, 32)
FULL = WAN.sized(832, 480)
NEAR = 0.1


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("wan")
    return {layout: make_wan_folder(root / layout, layout=layout) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def loaded(folders):
    return open_model(ModelSpec(name=str(folders["original"]), device="cpu"))


@pytest.fixture(scope="module")
def big():
    """The published 1.3B model, its VAE and UMT5-xxl, without files."""
    return published("wan-1.3b")


def wanted(*, name="wan-1.3b", size=FULL, backend: str | None = "triton", **changes):
    return ask(name=name, size=size, backend=backend, **changes)


def report(model, **changes):
    return estimate(model, wanted(**changes))


def fit(config):
    return fitting.fit(config, open_meta(config, dtype="bfloat16"))


def meta_model(folder, dtype="float32", **given):
    config = StreamConfig(model=ModelSpec(name=str(folder), **given))
    return MetaModel.open(config, dtype=dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_exactly_those_that_are_loaded(folders, loaded, layout):
    parts = report(meta_model(folders[layout]), size=SMALL)
    for part, name in (("backbone", "backbone"), ("text", "text encoder"), ("vae", "decoder")):
        real = held_bytes(weights_of(getattr(loaded, part)))
        assert real > 0
        assert parts.bytes_of(f"{name} weights") == real
    half = report(meta_model(folders[layout], "bfloat16"), size=SMALL)
    assert 2 * half.bytes_of("backbone weights") == parts.bytes_of("backbone weights")


def test_nothing_of_the_weights_is_read(folders, tmp_path):
    """A file with holes in the place of 5 GiB of weights takes no memory until they are read."""
    folder = tmp_path / "holes"
    shutil.copytree(folders["original"], folder)
    (folder / "config.json").unlink()
    config = replace(WAN_BACKBONES["wan-1.3b"], text_dim=CONFIG.text_dim)
    with torch.device("meta"):
        shapes = {name: list(value.shape) for name, value in Backbone(config).state_dict().items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    before = resident_bytes() or 0
    assert 2 * meta_model(folder, "bfloat16").backbone_bytes == end > 5 * GIB
    assert (resident_bytes() or 0) - before < GIB // 2


def test_a_student_and_a_lora_are_estimated_like_what_they_replace(folders, tmp_path):
    student, lora = tmp_path / "student.pt", tmp_path / "lora.safetensors"
    torch.save({"generator": wan_weights(seed=1)}, student)
    layer = "blocks.0.self_attn.q"
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, lora)
    one, other = (
        report(model, size=SMALL)
        for model in (
            meta_model(folders["original"]),
            meta_model(folders["original"], student=str(student), loras=(str(lora),)),
        )
    )
    assert one.bytes_of("backbone weights") == other.bytes_of("backbone weights")
    assert other.bytes_of("weights on their way") == 3 * one.bytes_of("weights on their way")


def test_decoding_is_counted_as_the_vae_decodes(folders, monkeypatch):
    # the twins on both sides; a GPU's kernels need less
    monkeypatch.setenv("AFSTREAM_BACKEND", "reference")
    shape, folder = (1, 3, 16, 8, 12), folders["original"]
    counted = count_decoding(meta_model(folder, "bfloat16").model.vae, shape, torch.float32)
    # in float32 a CPU's convolutions of small frames do not keep channels last
    vae = load_vae(folder / "Wan2.1_VAE.pth", dtype=torch.bfloat16)
    held, taken = decoded(vae, shape)
    assert counted.state == pytest.approx(held, rel=NEAR)
    assert counted.work == pytest.approx(taken, rel=NEAR)


@torch.inference_mode()
def decoded(vae, shape):
    """Bytes that a decoder on the CPU carries between chunks, and takes for one."""
    latents = torch.randn(shape)
    _, state = vae.decode(latents, None)
    _, state = vae.decode(latents, state)
    held = held_bytes(part for part in state if isinstance(part, torch.Tensor))
    with LiveBytes("cpu") as live:
        video, after = vae.decode(latents, state)
        levels = ((video[0].float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
        levels.permute(0, 2, 3, 1).contiguous()
    assert after
    return held, live.peak


def test_encoding_is_counted_as_the_encoder_encodes(folders, loaded):
    ids = torch.ones(1, loaded.text.text_len, dtype=torch.long)
    with LiveBytes("cpu") as live:
        loaded.text.encode_ids(ids, torch.ones_like(ids))
    encode_bytes = meta_model(folders["original"]).encode_bytes
    assert encode_bytes == pytest.approx(live.peak, rel=NEAR)


def test_the_encoders_place_decides_where_and_when_it_counts(big):
    kept, dropped, away = (
        report(big, prompts=3, text=place) for place in ("device", "drop", "cpu")
    )
    encoder = big.text_bytes
    assert kept.tensor_bytes - dropped.tensor_bytes == encoder
    assert away.host_bytes == encoder
    assert kept.host_bytes == dropped.host_bytes == 0
    phases = {phase.name: phase.tensors for phase in dropped.phases}
    assert encoder < phases["encode"] < 1.1 * encoder
    assert [phase.name for phase in away.phases] == ["load", "stream", "switch"]
    # prompts that come later are encoded while a chunk is made
    live = report(big, prompts=0)
    extra = live.bytes_of("prompt embeddings") - kept.bytes_of("prompt embeddings")
    assert live.tensor_bytes - kept.tensor_bytes == extra + live.bytes_of("encoding a prompt")


def test_the_published_sizes(big):
    """UMT5-xxl's encoder: embedding, 24 layers with biases of their own, one norm."""
    layer = 4 * 4096**2 + 3 * 4096 * 10240 + 32 * 64 + 2 * 4096
    assert big.text_bytes == 2 * (256384 * 4096 + 24 * layer + 4096)
    # the VAE's 126.9 million, and statistics of 16 channels in float32
    assert big.decoder_bytes == 2 * 126_892_531 + 2 * 16 * 4
    assert big.backbone_bytes == 2 * 1_418_996_800


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, ""),
        ({"text": "drop"}, "--text-encoder drop"),
        ({"text": "drop", "vae": "tiny"}, "--text-encoder drop --vae tiny"),
        # the encoder itself is now too large to be there for a moment
        ({"text": "cpu", "vae": "tiny"}, "--text-encoder cpu --vae tiny"),
        (
            {"text": "cpu", "vae": "tiny", "offload": 7},
            "--text-encoder cpu --vae tiny --offload 7",
        ),
        (
            {"text": "cpu", "vae": "tiny", "size": WAN.sized(640, 368)},
            "--text-encoder cpu --vae tiny --size 640x368",
        ),
        (
            {
                "text": "cpu",
                "vae": "tiny",
                "offload": 30,
                "size": WAN.sized(480, 272),
            },
            "--text-encoder cpu --vae tiny --offload 30 --size 480x272",
        ),
    ],
)
def test_a_change_is_proposed_where_it_is_the_first_that_does(big, changes, options):
    need = report(big, prompts=3, **changes).peak_bytes
    found = best_fit(big, wanted(prompts=3), need)
    assert found.fits
    assert " ".join(found.options) == options
    if options:
        said = oom_message(found)
        assert said.startswith("the model 'wan-1.3b' at 832x480 needs about ")
        assert f"; add {options}, which needs {show_bytes(need)}" in said


def test_where_nothing_fits_the_least_is_named(big):
    found = best_fit(big, wanted(), GIB)
    assert not found.fits
    said = oom_message(found)
    least = "with --text-encoder cpu --vae tiny --offload 30 --size 480x272 it needs"
    assert least in said
    assert said.endswith("at least, so take a larger GPU or another model")


def test_prompts_that_come_later_keep_the_encoder_on_the_cpu(big):
    found = best_fit(big, wanted(), report(big).peak_bytes - 1)
    assert found.options == ("--text-encoder", "cpu")
    # a decoder that was asked for stays
    own = MetaModel(big.model, ModelSpec(name="x", vae="own.pth"))
    assert "--vae" not in best_fit(own, wanted(vae="own.pth"), GIB).options


def test_random_models_are_offloaded_and_made_smaller_only():
    model = meta_model("random:wan-14b", "bfloat16")
    asked = wanted(name="random:wan-14b")
    assert list(text_places(model, asked)) == []
    for gigabytes, options in ((80, []), (45, ["--offload"]), (29, ["--offload", "--size"])):
        found = best_fit(model, asked, gigabytes * GIB)
        assert found.fits
        assert list(found.options[::2]) == options
        if options:
            config = found.best.config
            spec = replace(config.model, offload=config.model.offload - 1)
            fewer = estimate(model, replace(config, model=spec))
            assert fewer.peak_bytes > gigabytes * GIB
    least = best_fit(model, asked, 4 * GIB)
    assert not least.fits
    assert least.options == ("--offload", "40", "--size", "480x272")


def test_sizes_go_down_in_steps_of_whole_tokens():
    sizes = [(size.width_px, size.height_px) for size in smaller_sizes(FULL)]
    assert sizes == [(640, 368), (480, 272)]
    assert smaller_sizes(WAN.sized(16, 16)) == []


def test_a_tiny_vae_takes_less_than_wans(big):
    tiny, own = (model.decoding(FULL, ANCHOR) for model in (big.with_tiny_vae, big))
    assert big.with_tiny_vae.decoder_bytes < big.decoder_bytes / 10
    assert tiny.state < own.state / 4
    assert tiny.work < own.work / 4


def test_a_tiny_vae_is_counted_before_its_file_is_there(folders):
    vae = TinyVae(TinyDecoder(PUBLIC_WIDTHS).requires_grad_(False), reads_raw=False)
    model = meta_model(folders["original"]).with_tiny_vae
    assert model is not None
    assert model.decoder_bytes == held_bytes(weights_of(vae))
    counted = model.decoding(SMALL, ANCHOR)
    held, taken = decoded(vae, model.chunk_shape(ANCHOR, SMALL))
    assert counted.state == held
    assert counted.work == pytest.approx(taken, rel=NEAR)


def test_an_encoder_without_a_place_gets_the_fastest_that_fits(folders, monkeypatch):
    # a tiny encoder, as if it were a large one
    monkeypatch.setattr(MetaModel, "text_bytes", 4 * GIB)

    def asked(gibibytes, **given):
        room = int(gibibytes * GIB)
        name = str(folders["original"])
        return wanted(name=name, device="cpu", backend="sdpa", gpu_memory=room, **given)

    for gibibytes, prompts, place in (
        (8, 2, "device"),
        (8, 0, "device"),
        (4.9, 2, "drop"),
        (4.9, 0, "cpu"),
        (4, 2, "cpu"),
    ):
        config = asked(gibibytes, prompts=prompts)
        chosen, found = fit(config)
        assert chosen == replace(config, model=replace(config.model, text=place))
        assert found.peak_bytes <= gibibytes * GIB
    with pytest.raises(ConfigError, match="add --text-encoder drop, which needs"):
        fit(asked(4.9, prompts=2, text="device"))


def test_a_stream_takes_the_place_that_was_found(folders, monkeypatch):
    monkeypatch.setattr(MetaModel, "text_bytes", 4 * GIB)
    spec = ModelSpec(name=str(folders["original"]), device="cpu")
    stream = Stream.open(spec, size=(64, 32), gpu_memory=2 * GIB)
    assert stream.model.details["text"] == "on the cpu"
    assert stream.estimate
    assert stream.estimate.host_bytes == 4 * GIB
    assert stream.fork().estimate is stream.estimate
    plain = Stream.open(spec, size=(64, 32))
    assert plain.model.details["text"] == "on the device"
    assert plain.estimate is None


def test_a_cpu_is_left_alone(folders):
    config = wanted(name=str(folders["original"]), device="cpu")
    assert fit(config) == (config, None)


@pytest.fixture
def gpu(monkeypatch):
    """As if there were a GPU, of which so many bytes are free."""
    monkeypatch.setattr(fitting, "model_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(
        fitting, "choose_attention", lambda name, **where: Backend("triton", fused=True)
    )
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100 * MIB)

    def free(amount):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (amount, 12 * GIB))

    free(10 * GIB)
    return free


def test_a_gpu_is_planned_for_with_what_is_free(gpu):
    config = wanted(name="random:wan-1.3b", backend=None, prompts=2)
    _, found = fit(replace(config, gpu_memory=20 * GIB))
    chosen, free = fit(config)
    assert chosen == config
    assert free.parts == found.parts
    # torch's context is there already, and so are blocks that nobody uses
    spare = fitting.CONTEXT_BYTES + 200 * MIB
    gpu(found.peak_bytes - spare)
    assert fit(config)[1].peak_bytes == found.peak_bytes
    gpu(found.peak_bytes - spare - 1)
    there = re.escape(f"and {show_bytes(found.peak_bytes)} are there; add --offload 1,")
    with pytest.raises(ConfigError, match=there):
        fit(config)


def break_encoder(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr("transformers.UMT5EncoderModel.forward", broken)


def test_a_library_that_cannot_be_counted_stops_nobody_who_did_not_ask(
    folders, gpu, monkeypatch, caplog
):
    break_encoder(monkeypatch)
    config = wanted(name=str(folders["original"]), size=SMALL)
    assert fit(config) == (config, None)
    [said] = caplog.messages
    assert "cannot be counted with the installed torch and transformers" in said
    assert "(no meta kernel); whether it fits the GPU is not checked" in said
    with pytest.raises(ConfigError, match=r"no meta kernel.*; leave --gpu-memory out"):
        fit(replace(config, gpu_memory=80 * GIB))


@pytest.mark.parametrize("kind", [RuntimeError, TypeError, AttributeError])
def test_a_fault_of_our_own_is_not_taken_for_a_librarys(gpu, monkeypatch, kind):
    def broken(*_: object, **__: object) -> None:
        raise kind("ours")

    monkeypatch.setattr(Backbone, "write_kv", broken)
    with pytest.raises(kind, match="ours"):
        fit(wanted(name="random:wan-1.3b"))
