"""DoRA, LoKr, LoHa and Tucker's form: merged as their trainers merge them, to float32."""

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from tests.checkpoints.lora_files import check_merged, pair, pairs, shape, underscored, written
from tests.wan_transformer import CONFIG, wan_weights

from afstream.checkpoints import merge_loras, read_lora, read_loras
from afstream.errors import CheckpointError
from afstream.model.dit import Backbone
from afstream_cli.app import main

LAYER = "blocks.1.ffn.0"
SQUARE = "blocks.0.self_attn.q"
CONV = "patch_embedding"


def base():
    backbone = Backbone(CONFIG)
    backbone.load_state_dict(wan_weights())
    return backbone


def random(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed + sum(sizes)))


def trained(config, folder):
    """PEFT's folder of a model whose every part is random."""
    adapted = peft.get_peft_model(base(), config)
    for index, value in enumerate(one for one in adapted.parameters() if one.requires_grad):
        value.data = random(*value.shape, seed=index)
    adapted.save_pretrained(folder)
    return peft.PeftModel.from_pretrained(base(), folder)


def with_delta(layer, delta):
    weights = wan_weights()
    weights[f"{layer}.weight"] += delta.reshape(shape(layer))
    return weights


def lengthened(weight, delta, magnitude, axis):
    """The rule of DoRA, written out."""
    changed = weight + delta
    return magnitude.reshape([-1, 1] if axis == 0 else [1, -1]) * (
        changed / changed.square().sum(1 - axis, keepdim=True).sqrt()
    )


@pytest.mark.parametrize("scale", [1, 0.5, -0.7, 0])
@pytest.mark.parametrize("targets", [["q", "ffn.0"], ["patch_embedding"]])
def test_peft_merges_a_dora_the_same(tmp_path, scale, targets):
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, use_dora=True)
    adapted = trained(config, tmp_path)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", scale)
    check_merged([f"{tmp_path}:{scale}"], adapted.merge_and_unload().state_dict())


@pytest.mark.parametrize("rank", [2, 100])
@pytest.mark.parametrize("both", [False, True])
def test_peft_merges_a_lokr_the_same(tmp_path, rank, both):
    """Of rank 100 both matrices are whole, and PEFT divides by the rank all the same."""
    config = peft.LoKrConfig(
        r=rank, alpha=3, target_modules=["q", "ffn.0"], decompose_both=both, decompose_factor=8
    )
    adapted = trained(config, tmp_path)
    check_merged([f"{tmp_path}:0.01"], scaled(adapted, 0.01))


def test_peft_merges_a_loha_the_same(tmp_path):
    adapted = trained(peft.LoHaConfig(r=2, alpha=3, target_modules=["q", "ffn.0"]), tmp_path)
    check_merged([f"{tmp_path}:0.1"], scaled(adapted, 0.1))


def scaled(adapted, scale):
    for module in adapted.modules():
        if hasattr(module, "scaling"):
            module.scaling["default"] *= scale
    return adapted.merge_and_unload().state_dict()


@pytest.mark.parametrize("scale", [1, 0.5, -0.7])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layer", [LAYER, SQUARE])
@pytest.mark.parametrize("prefix", ["lora_unet_", "lycoris_", "diffusion_model."])
def test_a_dora_of_lycoris(tmp_path, scale, axis, layer, prefix):
    """Of rows or of columns; a scale leads from the weight to the changed one."""
    down, up = pair(layer)
    magnitude = random(shape(layer)[axis]).abs()
    spelled = prefix + (layer if prefix.endswith(".") else underscored(layer))
    content = {
        f"{spelled}.lora_down.weight": down,
        f"{spelled}.lora_up.weight": up,
        f"{spelled}.alpha": torch.tensor(2.0),
        f"{spelled}.dora_scale": magnitude.unsqueeze(1 - axis).contiguous(),
    }
    weights = wan_weights()
    weight = weights[f"{layer}.weight"]
    changed = lengthened(weight, 0.5 * (up @ down), magnitude, axis)
    weights[f"{layer}.weight"] = weight + scale * (changed - weight)
    check_merged([f"{written(tmp_path / 'l.safetensors', content)}:{scale}"], weights)


def test_each_of_several_changes_the_base(tmp_path):
    """A DoRA's norm does not see the others, so their order does not matter."""
    down, up = pair(SQUARE)
    magnitude = random(64, 1).abs()
    named = {f"{SQUARE}.lora_A.weight": down, f"{SQUARE}.lora_B.weight": up}
    dora = written(tmp_path / "dora.safetensors", named | {f"{SQUARE}.dora_scale": magnitude})
    plain = f"{written(tmp_path / 'plain.safetensors', named)}:-0.4"
    lokr = {f"{SQUARE}.lokr_w1": random(4, 4), f"{SQUARE}.lokr_w2": random(16, 16)}
    kron = f"{written(tmp_path / 'lokr.safetensors', lokr)}:0.3"
    weights = wan_weights()
    weight = weights[f"{SQUARE}.weight"]
    weights[f"{SQUARE}.weight"] = lengthened(weight, up @ down, magnitude, 0) - 0.4 * (up @ down)
    weights[f"{SQUARE}.weight"] += 0.3 * torch.kron(*lokr.values())
    check_merged([dora, plain, kron], weights)
    check_merged([kron, plain, dora], weights)


def test_a_row_of_zeros_stays_one(tmp_path):
    content = {
        f"{SQUARE}.lora_A.weight": torch.zeros(4, 64),
        f"{SQUARE}.lora_B.weight": torch.zeros(64, 4),
        f"{SQUARE}.dora_scale": torch.ones(64, 1),
    }
    weights = wan_weights() | {f"{SQUARE}.weight": torch.zeros(64, 64)}
    loras = read_loras([str(written(tmp_path / "l.safetensors", content))])
    assert not merge_loras(weights, loras)[f"{SQUARE}.weight"].any()


def lokr(layer, **parts):
    return {f"lycoris_{underscored(layer)}.lokr_{name}": value for name, value in parts.items()}


def factors(layer, first=4):
    out, width = shape(layer)[:2]
    return random(first, first), (out // first, width // first)


@pytest.mark.parametrize("alpha", [None, 3.0])
def test_lokr_in_every_form(tmp_path, alpha):
    """Alpha / rank where a matrix is a product, and 1 where both are whole."""
    w1, (rows, columns) = factors(LAYER)
    w2, a, b = random(rows, columns), random(rows, 2), random(2, columns)
    first, second = random(4, 2), random(2, 4)
    forms = [
        ({"w1": w1, "w2": w2}, torch.kron(w1, w2), 1),
        ({"w1": w1, "w2_a": a, "w2_b": b}, torch.kron(w1, a @ b), 2),
        ({"w1_a": first, "w1_b": second, "w2": w2}, torch.kron(first @ second, w2), 2),
        (
            {"w1_a": first, "w1_b": second, "w2_a": a, "w2_b": b},
            torch.kron(first @ second, a @ b),
            2,
        ),
    ]
    for parts, delta, rank in forms:
        content = lokr(LAYER, **parts)
        factor = 1.0
        if alpha is not None:
            content[f"lycoris_{underscored(LAYER)}.alpha"] = torch.tensor(alpha)
            factor = 1 if rank == 1 else alpha / rank
        path = written(tmp_path / "l.safetensors", content)
        check_merged([f"{path}:-0.1"], with_delta(LAYER, -0.1 * factor * delta))


def test_lokr_of_a_convolution(tmp_path):
    """Whole, with flat rows, and with a core."""
    w1, (rows, columns) = factors(CONV)
    kernel = shape(CONV)[2:]
    w2, core = random(rows, columns, *kernel), random(2, 2, *kernel)
    left, right, flat = random(2, rows), random(2, columns), random(2, columns * kernel.numel())
    tall = random(rows, 2)

    def slow(second):
        return torch.einsum("ab,cdfhw->acbdfhw", w1, second)

    cored = torch.einsum("ijfhw,ic,jd->cdfhw", core, left, right)
    unrolled = (tall @ flat).reshape(rows, columns, *kernel)
    forms = [
        ({"w2": w2}, w2),
        ({"t2": core, "w2_a": left, "w2_b": right}, cored),
        ({"w2_a": tall, "w2_b": flat}, unrolled),
    ]
    for parts, second in forms:
        path = written(tmp_path / "l.safetensors", lokr(CONV, w1=w1, **parts))
        check_merged([f"{path}:0.1"], with_delta(CONV, 0.1 * slow(second)))


def test_a_dora_of_a_lokr(tmp_path):
    w1, (rows, columns) = factors(LAYER)
    w2, magnitude = random(rows, columns), random(1, 4 * columns).abs()
    content = lokr(LAYER, w1=w1, w2=w2)
    content[f"lycoris_{underscored(LAYER)}.dora_scale"] = magnitude
    weights = wan_weights()
    weight = weights[f"{LAYER}.weight"]
    weights[f"{LAYER}.weight"] = lengthened(weight, torch.kron(w1, w2), magnitude, 1)
    check_merged([written(tmp_path / "l.safetensors", content)], weights)


def test_loha_with_cores(tmp_path):
    out, width, *kernel = shape(CONV)
    parts = {
        "w1_a": random(2, out),
        "w1_b": random(2, width),
        "t1": random(2, 2, *kernel),
        "w2_a": random(2, out, seed=1),
        "w2_b": random(2, width, seed=1),
        "t2": random(2, 2, *kernel, seed=1),
    }
    content = {f"lora_unet_{CONV}.hada_{name}": value for name, value in parts.items()}
    content[f"lora_unet_{CONV}.alpha"] = torch.tensor([1])
    one, two = (
        torch.einsum("ijfhw,io,jn->onfhw", parts[f"t{i}"], parts[f"w{i}_a"], parts[f"w{i}_b"])
        for i in "12"
    )
    path = written(tmp_path / "l.safetensors", content)
    check_merged([f"{path}:0.1"], with_delta(CONV, 0.1 * 0.5 * one * two))


def test_a_pair_in_tuckers_form(tmp_path):
    """Three convolutions, one after the other."""
    out, width, *kernel = shape(CONV)
    down, up, mid = random(4, width, 1, 1, 1), random(out, 4, 1, 1, 1), random(4, 4, *kernel)
    named = {"lora_down": down, "lora_up": up, "lora_mid": mid}
    content = {f"lora_unet_{CONV}.{name}.weight": value for name, value in named.items()}
    weights = merge_loras(
        wan_weights(), [read_lora(written(tmp_path / "l.safetensors", content), scale=-0.3)]
    )
    x = random(1, width, 2, 4, 4)
    conv = torch.nn.functional.conv3d
    difference = weights[f"{CONV}.weight"] - wan_weights()[f"{CONV}.weight"]
    slow = -0.3 * conv(conv(conv(x, down), mid), up)
    torch.testing.assert_close(conv(x, difference), slow, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({f"{SQUARE}.dora_scale": torch.ones(64, 1)}, "has DoRA's lengths and no matrices for"),
        (
            pairs() | {f"{SQUARE}.dora_scale": torch.ones(64)},
            "may be of its rows or of its columns",
        ),
        (pairs() | {f"{SQUARE}.dora_scale": torch.ones(63, 1)}, "give a LoRA of this model"),
        (pairs() | {f"{SQUARE}.lora_magnitude_vector": torch.ones(1)}, "give a LoRA of this model"),
        (
            pairs()
            | {
                f"{SQUARE}.{one}": torch.ones(64, 1)
                for one in ("dora_scale", "lora_magnitude_vector")
            },
            "lengths twice",
        ),
        (
            lokr(SQUARE, w1=torch.ones(4, 4)),
            "LoKr matrices lokr_w1 for blocks.0.self_attn.q, which",
        ),
        (
            lokr(SQUARE, w1=torch.ones(4, 4), w1_a=torch.ones(4, 4), w2=torch.ones(16, 16)),
            "which do not make a whole one",
        ),
        (lokr(SQUARE, w1=torch.ones(4, 4), w2=torch.ones(8, 8)), "as (32, 32), but the model has"),
        (
            lokr(SQUARE, w1=torch.ones(4, 4), w2_a=torch.ones(16, 2), w2_b=torch.ones(3, 16)),
            "cannot be multiplied",
        ),
        (pairs() | lokr(SQUARE, w1=torch.ones(4, 4), w2=torch.ones(16, 16)), "both LoRA and LoKr"),
        ({f"{SQUARE}.hada_w1_a": torch.ones(64, 2)}, "LoHa matrices hada_w1_a for"),
        ({f"{SQUARE}.lora_mid.weight": torch.ones(4, 4, 1)}, "no complete pair of matrices"),
    ],
)
def test_parts_that_make_no_whole(tmp_path, content, words):
    path = written(tmp_path / "l.safetensors", content)
    with pytest.raises(CheckpointError) as caught:
        merge_loras(wan_weights(), [read_lora(path)])
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_command_shows_kinds(tmp_path, capsys):
    content = pairs() | {f"{SQUARE}.dora_scale": torch.ones(64, 1)}
    path = written(tmp_path / "l.safetensors", content)
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", str(path)])
    assert "2 LoRA, 1 DoRA" in capsys.readouterr().out
