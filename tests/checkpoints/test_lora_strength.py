"""A LoRA's strength is obeyed wherever it stands, or named in a refusal."""

import json

import peft
import pytest
import torch
from tests.checkpoints.lora_files import (
    LAYERS,
    check_factor,
    check_merged,
    expected,
    pairs,
    theirs,
    written,
)
from tests.wan_transformer import CONFIG, wan_weights

from afstream.checkpoints import read_lora, read_loras
from afstream.errors import CheckpointError, ConfigError
from afstream.model.dit import Backbone
from afstream_cli.app import main

SETTINGS = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False, "use_dora": False}
FLOATS = pairs(alpha=2.0)
TENSORS = pairs(alpha=torch.tensor(2.0))


def adapter(**more):
    """PEFT's settings as diffusers writes them into a header."""
    settings = {"r": 4, "lora_alpha": 16, **more}
    named = {f"transformer.{name}": value for name, value in settings.items()}
    return {"lora_adapter_metadata": json.dumps(named)}


@pytest.fixture
def folder(tmp_path):
    """PEFT's folder, with settings and more."""

    def make(**more):
        written(tmp_path / "adapter_model.safetensors", pairs("base_model.model."))
        (tmp_path / "adapter_config.json").write_text(json.dumps(SETTINGS | more))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("metadata", "factor"),
    [
        ({"lora_alpha": "8"}, 2),
        ({"alpha": "1", "rank": "4"}, 0.25),
        ({"network_alpha": "1"}, 0.25),
        ({"transformer.lora_alpha": "16", "transformer.r": "4"}, 4),
        ({"lora_config": json.dumps({"rank": 4, "alpha": 8})}, 2),
        ({"lora_alpha": "8", "use_rslora": "True"}, 4),
        (adapter(), 4),
        (adapter(use_rslora=True), 8),
        (adapter(alpha_pattern={}, rank_pattern={}, use_dora=False), 4),
        ({"rank": "4", "ss_network_dim": "4", "ss_network_alpha": "4.0"}, 1),
        ({"ss_network_alpha": "Dynamic", "ss_scale_weight_norms": "1.0"}, 1),
        ({"modelspec.scale": "2", "guidance_scale": "5"}, 1),
    ],
)
def test_texts_of_a_header(tmp_path, metadata, factor):
    check_factor(written(tmp_path / "l.safetensors", pairs(), metadata), factor)


@pytest.mark.parametrize(
    ("content", "factor"),
    [
        (FLOATS, 0.5),
        (TENSORS, 0.5),
        (pairs(alpha=torch.tensor([2])), 0.5),
        ({**pairs(), "lora_alpha": 8}, 2),
        ({**pairs(), "lora_alpha": torch.tensor(8.0)}, 2),
        ({"generator_lora": {**pairs(), "lora_alpha": 8}}, 2),
        ({"generator_lora": pairs(), "lora_config": {"rank": 4, "alpha": 8}}, 2),
        ({"generator_lora": pairs(), "config": {"lora_alpha": 8, "scale": 7}}, 2),
        ({"generator_lora": pairs(), "lora_alpha": 8, "lora_rank": 4, "step": 3}, 2),
        ({"generator_lora": pairs(), "critic_lora": {**FLOATS, "lora_alpha": 16}}, 1),
        ({"generator_lora": pairs(), "scaler": {"scale": 65536.0}}, 1),
        ({"lora": pairs(), "alpha": 8, "critic": pairs()}, 2),
        ({"state_dict": pairs()}, 1),
    ],
)
def test_dicts_and_numbers_in_a_file_of_torch(tmp_path, content, factor):
    check_factor(written(tmp_path / "l.pt", content), factor)


def test_settings_of_peft_beside_the_file_and_its_folder(folder):
    check_factor(folder() / "adapter_model.safetensors", 2)
    check_factor(folder(use_rslora=True), 4)
    check_factor(f"{folder()}:-0.5", -1)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_peft_merges_the_same(tmp_path, use_rslora):
    """Patterns that are a name's end, an expression, and one that is anchored."""

    def base():
        backbone = Backbone(CONFIG)
        backbone.load_state_dict(wan_weights())
        return backbone

    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q", "ffn.0", "patch_embedding"],
        use_rslora=use_rslora,
        rank_pattern={"blocks.1.self_attn.q": 2},
        alpha_pattern={r"^blocks\.0.*self_attn\.q": 16, "ffn.0": 6, r"[0-9]\.self_attn\.q": 3},
        init_lora_weights=False,
    )
    peft.get_peft_model(base(), config).save_pretrained(tmp_path)
    # read again, as it writes patterns in another order, and the first that fits counts
    adapted = peft.PeftModel.from_pretrained(base(), tmp_path)
    check_merged([tmp_path], adapted.merge_and_unload().state_dict())


def test_patterns_of_a_header_are_in_the_words_of_the_file(tmp_path):
    named = pairs("transformer.", spell=theirs)
    said = adapter(alpha_pattern={"blocks.0.attn1.to_q": 4}, rank_pattern={"ffn.net.0.proj": 4})
    path = written(tmp_path / "l.safetensors", named, said)
    check_merged([path], expected({LAYERS[0]: 1, LAYERS[1]: 4, LAYERS[2]: 4}))


@pytest.mark.parametrize(
    ("content", "metadata", "words"),
    [
        (TENSORS, {"lora_alpha": "16"}, "2 by the layer's own alpha, but 16 by lora_alpha of the"),
        (TENSORS, {"ss_network_alpha": "4"}, "but 4 by ss_network_alpha of the header"),
        (pairs(), {"alpha": "8", "lora_alpha": "4"}, " 4 by lora_alpha of the header"),
        (pairs(), {"lora_alpha": "4", **adapter()}, "but 16 by lora_alpha of lora_adapter_metad"),
        (pairs(), {"lora_alpha": "8", "rank": "8"}, "4 by its matrices, but 8 by rank of the he"),
        (pairs(), adapter(rank_pattern={"q": 8}), "but 8 by rank_pattern of lora_adapter_met"),
        (pairs(), adapter(r=64), "is 4 by its matrices, but 64 by r of lora_adapter_metad"),
        (pairs(), adapter(alpha_pattern={"attn1.to_q": 1}), "speaks of attn1.to_q, which is none"),
        (pairs(), adapter(alpha_pattern={"(a+)+": 1}), "names (a+)+, which is no pattern"),
        (pairs(), adapter(alpha_pattern={"(": 1}), "names (, which is no pattern of layers"),
        (pairs(), adapter(alpha_pattern=3), "alpha_pattern of lora_adapter_metadata.transformer"),
        (pairs(), adapter(lora_alpha=None), "nothing says the alpha of blocks"),
        (pairs(), {"use_rslora": "true"}, "nothing says the alpha of"),
        (pairs(), adapter(use_dora=True), "is a DoRA, by use_dora of lora_adapter_metadata"),
        (pairs(), {"lora_alpha": "8", "use_rslora": "perhaps"}, "it must be true or false"),
        (pairs(), {"ss_network_args": '{"dora_wd": "True"}'}, "is a DoRA, by dora_wd of ss_netw"),
        (pairs(), {"ss_network_alpha": "1"}, "may be merged into the matrices already"),
        (pairs(), {"lora_scale": "2"}, "lora_scale of the header is '2', which may speak of the"),
        (pairs(), {"alphas": "[4, 8]"}, "alphas of the header is '[4, 8]', which may speak of"),
        (pairs(), {"lora_alpha": "0"}, "is 0 by lora_alpha of the header, so it adds nothing"),
        (pairs(), {"rank": "nan"}, "the rank of rank is 'nan'; it must be a finite number"),
        (pairs(), adapter(fan_in_fan_out=True), "fan_in_fan_out of lora_adapter_metadata.transf"),
        (pairs(), adapter(init_lora_weights="pissa"), "is 'pissa', which cannot be merged"),
        (pairs(), adapter(peft_type="OFT"), "is 'OFT', which cannot be merged"),
    ],
)
def test_what_disagrees_or_is_not_understood(tmp_path, content, metadata, words):
    path = written(tmp_path / "l.safetensors", content, metadata)
    with pytest.raises(CheckpointError) as caught:
        read_lora(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"generator_lora": FLOATS, "lora_alpha": 8}, "but 8 by lora_alpha of the file"),
        ({"generator_lora": {**pairs(), "use_rslora": True}}, "its generator_lora has a LoRA's"),
        ({**pairs(), "lora_strength": 2}, "lora_strength of the file is 2, which may speak"),
        ({**pairs(), "peft_config": {"scaling": 2.0}}, "scaling of peft_config in the file is 2.0"),
        ({**pairs(), "blocks.0.self_attn.k.alpha": 2.0}, "has an alpha for blocks.0.self_attn.k,"),
        ({**pairs(), "blocks.0.selfattn.q.alpha": 2.0}, "unknown layout"),
        ({"one": pairs(), "two": pairs()}, "holds LoRA weights under one, two"),
    ],
)
def test_what_a_file_of_torch_says(tmp_path, content, words):
    with pytest.raises(CheckpointError) as caught:
        read_lora(written(tmp_path / "l.pt", content))
    assert words in str(caught.value)


def test_a_dict_that_holds_itself(tmp_path):
    settings: dict[str, object] = {"lora_alpha": 8}
    settings["adapter"] = settings
    check_factor(written(tmp_path / "l.pt", {"generator_lora": pairs(), "lora": settings}), 2)


def test_settings_of_peft_that_disagree(folder, tmp_path):
    written(folder() / "adapter_model.safetensors", pairs(), {"lora_alpha": "4"})
    with pytest.raises(CheckpointError, match=r"4 by lora_alpha of .*8 by .*adapter_config.json"):
        read_lora(tmp_path)


def test_settings_of_peft_beside_a_file_of_another_name(folder):
    path = written(folder() / "l.safetensors", pairs(alpha=torch.tensor(8.0)))
    check_factor(path, 2)
    with pytest.raises(CheckpointError, match=r"adapter_config.json .* move it to another folder"):
        read_lora(written(path, pairs()))


def test_a_folder_that_holds_no_lora(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a folder without adapter_model.safetensors"):
        read_lora(tmp_path)


@pytest.mark.parametrize("scale", ["nan", "-inf", "0,8", "", "1e300"])
def test_scales_that_are_no_numbers_or_too_large(tmp_path, scale):
    path = written(tmp_path / "l.safetensors", pairs())
    with pytest.raises(ConfigError, match=f"the scale of LoRA {path} is .*give a number, such as"):
        read_loras([f"{path}:{scale}"])


def test_the_command_shows_factors_and_where_they_were_read(folder, capsys):
    def shown(*options):
        with pytest.raises(SystemExit, match="0"):
            main(["inspect", *options])
        return capsys.readouterr().out

    said = shown(str(folder(alpha_pattern={"ffn.0": 2})))
    assert "2 = alpha 8 / rank 4 (lora_alpha of adapter_config.json): 2 layers" in said
    assert "0.5 = alpha 2 / rank 4 (alpha_pattern of adapter_config.json): 1 layer " in said
    (strength,) = json.loads(shown("--json", str(folder())))["findings"][0]["lora"]["strengths"]
    assert (strength["factor"], strength["source"]) == (2, "lora_alpha of adapter_config.json")
