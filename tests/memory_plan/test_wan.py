"""A Wan folder's parts, estimated from headers and held against the loaded ones."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from afstream.bench.footprint import resident_bytes
from afstream.memory_plan.calls import count_decoding, count_encoding
from afstream.memory_plan.outline import Outline, Setting
from afstream.memory_plan.plan import plan, refusal, smaller_sizes, text_places
from afstream.memory_plan.settle import Demand, settle
from afstream.memory_plan.tiny import tiny_decoding, tiny_weight_bytes
from safetensors.torch import save_file
from tests.wan_transformer import CONFIG, wan_weights

from afstream.config import WAN_BACKBONES
from afstream.errors import ConfigError
from afstream.families.opening import open_model
from afstream.families.presets import LENGTHS
from afstream.families.wan.text import WanText
from afstream.geometry import Geometry
from afstream.kvcache.memories import memory_policy
from afstream.memory_plan import settle as settling
from afstream.memory_plan.count import LiveBytes, held_bytes, weights_of
from afstream.memory_plan.estimate import estimate
from afstream.memory_plan.published import published
from afstream.memory_plan.units import GIB, MIB, show_bytes
from afstream.model.dit import Backbone
from afstream.spec import ModelSpec
from afstream.stream import Stream

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from tests.wan_folder import make_wan_folder

LAYOUTS = ("original", "diffusers")
ANCHOR = memory_policy("anchor", LENGTHS)
SMALL = Geometry(width_px=64, height_px=32)
FULL = Geometry(width_px=832, height_px=480)
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


@pytest.fixture
def demand():
    return Demand(
        size=SMALL, policy=ANCHOR, backend="sdpa", graphs=True, prompts=2, gpu_memory=80 * GIB
    )


ASKED = Setting(geometry=FULL, policy=ANCHOR, backend="triton")


def setting(**changes):
    return replace(ASKED, **changes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_exactly_those_that_are_loaded(folders, loaded, layout):
    outline = Outline.open(ModelSpec(name=str(folders[layout])), dtype="float32")
    parts = estimate(outline, setting(geometry=SMALL))
    for part, name in (("backbone", "backbone"), ("text", "text encoder"), ("vae", "decoder")):
        real = held_bytes(weights_of(getattr(loaded, part)))
        assert real > 0
        assert parts.bytes_of(f"{name} weights") == real
    half = estimate(
        Outline.open(ModelSpec(name=str(folders[layout])), dtype="bfloat16"),
        setting(geometry=SMALL),
    )
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
    outline = Outline.open(ModelSpec(name=str(folder)), dtype="bfloat16")
    assert 2 * outline.backbone_bytes == end > 5 * GIB
    assert (resident_bytes() or 0) - before < GIB // 2


def test_a_student_and_a_lora_are_estimated_like_what_they_replace(folders, tmp_path):
    student, lora = tmp_path / "student.pt", tmp_path / "lora.safetensors"
    torch.save({"generator": wan_weights(seed=1)}, student)
    layer = "blocks.0.self_attn.q"
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, lora)
    plain = ModelSpec(name=str(folders["original"]))
    given = replace(plain, student=str(student), loras=(str(lora),))
    one, other = (
        estimate(Outline.open(spec, dtype="float32"), setting(geometry=SMALL))
        for spec in (plain, given)
    )
    assert one.bytes_of("backbone weights") == other.bytes_of("backbone weights")
    assert other.bytes_of("weights on their way") == 3 * one.bytes_of("weights on their way")


def test_decoding_is_counted_as_the_vae_decodes(folders, loaded):
    outline = Outline.open(ModelSpec(name=str(folders["original"])), dtype="float32")
    shape = (1, 3, 16, 8, 12)
    counted = count_decoding(outline.model.vae, shape, torch.float32)
    with torch.inference_mode():
        latents = torch.randn(shape)
        _, state = loaded.vae.decode(latents, None)
        _, state = loaded.vae.decode(latents, state)
        held = held_bytes(part for part in state.features if isinstance(part, torch.Tensor))
        with LiveBytes("cpu") as live:
            video, after = loaded.vae.decode(latents, state)
            levels = ((video[0].float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
            levels.permute(0, 2, 3, 1).contiguous()
    assert after
    assert counted.state == pytest.approx(held, rel=NEAR)
    assert counted.work == pytest.approx(live.peak, rel=NEAR)


def test_encoding_is_counted_as_the_encoder_encodes(folders, loaded):
    outline = Outline.open(ModelSpec(name=str(folders["original"])), dtype="float32")
    ids = torch.ones(1, loaded.text.text_len, dtype=torch.long)
    with LiveBytes("cpu") as live:
        loaded.text.encode_ids(ids, torch.ones_like(ids))
    assert isinstance(outline.model.text, WanText)
    assert count_encoding(outline.model.text) == pytest.approx(live.peak, rel=NEAR)


def test_the_encoders_place_decides_where_and_when_it_counts(big):
    kept, dropped, away = (
        estimate(big, setting(prompts=3, text=place)) for place in ("device", "drop", "cpu")
    )
    encoder = big.text_bytes
    assert kept.tensor_bytes - dropped.tensor_bytes == encoder
    assert away.host_bytes == encoder
    assert kept.host_bytes == dropped.host_bytes == 0
    moments = {one.name: one.tensors for one in dropped.moments}
    assert encoder < moments["encode"] < 1.1 * encoder
    assert [one.name for one in away.moments] == ["load", "stream", "switch"]
    # prompts that come later are encoded while a chunk is made
    live = estimate(big, setting(prompts=0))
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
        ({"text": "drop", "tiny": True}, "--text-encoder drop --vae tiny"),
        # the encoder itself is now too large to be there for a moment
        ({"text": "cpu", "tiny": True}, "--text-encoder cpu --vae tiny"),
        (
            {"text": "cpu", "tiny": True, "offload": 7},
            "--text-encoder cpu --vae tiny --offload 7",
        ),
        (
            {"text": "cpu", "tiny": True, "geometry": Geometry(width_px=640, height_px=368)},
            "--text-encoder cpu --vae tiny --size 640x368",
        ),
        (
            {
                "text": "cpu",
                "tiny": True,
                "offload": 30,
                "geometry": Geometry(width_px=480, height_px=272),
            },
            "--text-encoder cpu --vae tiny --offload 30 --size 480x272",
        ),
    ],
)
def test_a_change_is_proposed_where_it_is_the_first_that_does(big, changes, options):
    asked = setting(prompts=3)
    need = estimate(big, replace(asked, **changes)).peak_bytes
    found = plan(big, asked, need)
    assert found.fits
    assert " ".join(found.options) == options
    if options:
        said = refusal(found, estimate(big, asked), name="x")
        assert said.startswith("the model 'x' at 832x480 needs about ")
        assert f"; add {options}, which needs {show_bytes(need)}" in said


def test_where_nothing_fits_the_least_is_named(big):
    asked = setting()
    found = plan(big, asked, GIB)
    assert not found.fits
    said = refusal(found, estimate(big, asked), name="x")
    least = "with --text-encoder cpu --vae tiny --offload 30 --size 480x272 it needs"
    assert least in said
    assert said.endswith("at least, so take a larger GPU or another model")


def test_prompts_that_come_later_keep_the_encoder_on_the_cpu(big):
    asked = setting()
    found = plan(big, asked, estimate(big, asked).peak_bytes - 1)
    assert found.options == ("--text-encoder", "cpu")
    # a decoder that was asked for stays
    own = Outline(big.model, ModelSpec(name="x", vae="own.pth"))
    assert "--vae" not in plan(own, asked, GIB).options


def test_random_models_are_offloaded_and_made_smaller_only():
    outline = Outline.open(ModelSpec(name="random:wan-14b"), dtype="bfloat16")
    asked = setting()
    assert text_places(outline, asked) == ("device",)
    for gigabytes, options in ((80, []), (45, ["--offload"]), (30, ["--offload", "--size"])):
        found = plan(outline, asked, gigabytes * GIB)
        assert found.fits
        assert list(found.options[::2]) == options
        if options:
            fewer = replace(found.setting, offload=found.setting.offload - 1)
            assert estimate(outline, fewer).peak_bytes > gigabytes * GIB
    least = plan(outline, asked, 4 * GIB)
    assert not least.fits
    assert least.options == ("--offload", "40", "--size", "480x272")


def test_sizes_go_down_in_steps_of_whole_tokens():
    sizes = [(size.width_px, size.height_px) for size in smaller_sizes(FULL)]
    assert sizes == [(640, 368), (480, 272)]
    assert smaller_sizes(Geometry(width_px=16, height_px=16)) == []


def test_a_tiny_vae_takes_less_than_wans(big):
    shape = (1, 3, 16, 60, 104)
    tiny, own = tiny_decoding(shape, torch.bfloat16), big.decoding(setting())
    assert tiny_weight_bytes(torch.bfloat16) < big.decoder_bytes / 10
    assert tiny.state < own.state / 4
    assert tiny.work < own.work / 4


def test_an_encoder_without_a_place_gets_the_fastest_that_fits(folders, demand, monkeypatch):
    # a tiny encoder, as if it were a large one
    monkeypatch.setattr(Outline, "text_bytes", 4 * GIB)
    spec = ModelSpec(name=str(folders["original"]), device="cpu")
    demand = replace(demand, size=FULL)
    for gibibytes, prompts, place in (
        (8, 2, "device"),
        (8, 0, "device"),
        (4.9, 2, "drop"),
        (4.9, 0, "cpu"),
        (4, 2, "cpu"),
    ):
        room = replace(demand, prompts=prompts, gpu_memory=int(gibibytes * GIB))
        chosen, found = settle(spec, room)
        assert chosen == replace(spec, text=place)
        assert found.peak_bytes <= room.gpu_memory
    with pytest.raises(ConfigError, match="add --text-encoder drop, which needs"):
        settle(replace(spec, text="device"), replace(demand, gpu_memory=int(4.9 * GIB)))


def test_a_stream_takes_the_place_that_was_found(folders, monkeypatch):
    monkeypatch.setattr(Outline, "text_bytes", 4 * GIB)
    spec = ModelSpec(name=str(folders["original"]), device="cpu")
    stream = Stream.open(spec, size=(64, 32), gpu_memory=2 * GIB)
    assert stream.model.details["text"] == "on the cpu"
    assert stream.estimate
    assert stream.estimate.host_bytes == 4 * GIB
    assert stream.fork().estimate is stream.estimate
    plain = Stream.open(spec, size=(64, 32))
    assert plain.model.details["text"] == "on the device"
    assert plain.estimate is None


def test_a_cpu_is_left_alone(folders, demand):
    spec = ModelSpec(name=str(folders["original"]), device="cpu")
    assert settle(spec, replace(demand, gpu_memory=None)) == (spec, None)


def test_a_gpu_is_reckoned_with_what_is_free(demand, monkeypatch):
    monkeypatch.setattr(settling, "model_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(settling, "choose_backend", lambda name, **where: "triton")
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100 * MIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 12 * GIB))
    spec = ModelSpec(name="random:wan-1.3b")
    demand = replace(demand, size=FULL, gpu_memory=None, backend=None)
    needed = settle(spec, replace(demand, gpu_memory=20 * GIB))[1].peak_bytes
    assert settle(spec, demand) == (spec, settle(spec, replace(demand, gpu_memory=20 * GIB))[1])
    # torch's context is there already, and so are blocks that nobody uses
    spare = settling.CONTEXT_BYTES + 200 * MIB
    for lacking in (0, 1):
        free = needed - spare - lacking
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 12 * GIB))
        if not lacking:
            assert settle(spec, demand)[1].peak_bytes == needed
            continue
        with pytest.raises(ConfigError, match=r"and 10\.6 GiB are there; add --offload 1,"):
            settle(spec, demand)


def test_what_cannot_be_counted_stops_nobody_who_did_not_ask(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr(settling, "estimate", broken)
    monkeypatch.setattr(settling, "model_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(settling, "free_bytes", lambda _: 2**40)
    spec = ModelSpec(name="random:wan-1.3b")
    demand = settling.Demand(
        size=None,
        policy=memory_policy("anchor", LENGTHS),
        backend=None,
        graphs=True,
        prompts=1,
        gpu_memory=None,
    )
    assert settling.settle(spec, demand) == (spec, None)
    with pytest.raises(ConfigError, match="no meta kernel"):
        settling.settle(spec, replace(demand, gpu_memory=2**40))
