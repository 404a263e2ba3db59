"""Wan's text encoder: the golden embeddings, prompts as Wan reads them, bad files."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from afstream.errors import CheckpointError, ConfigError, PromptError
from afstream.families.wan.family import WAN
from afstream.families.wan.text import WanText, load_text
from afstream.families.wan.tokenizer import clean

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tests.wan_folder import (
    make_wan_folder,
    pieces,
    write_text_encoder,
    write_tokenizer,
)

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGINAL = "models_t5_umt5-xxl-enc-bf16.pth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("wan")
    write_text_encoder(path, "original")
    write_tokenizer(path, "original")
    return path


@pytest.fixture(scope="module")
def text(folder) -> WanText:
    return load_text(folder / ORIGINAL, folder / "google" / "umt5-xxl")


def counted(text, monkeypatch):
    """How often the encoder ran."""
    calls = []
    monkeypatch.setattr(text, "_kept", type(text._kept)())
    inner = text.encode_ids
    monkeypatch.setattr(text, "encode_ids", lambda *args: calls.append(1) or inner(*args))
    return calls


def test_the_golden_embeddings(folder):
    text = load_text(GOLDEN / ORIGINAL, folder / "google" / "umt5-xxl")
    golden = load_file(GOLDEN / "text_encoder.safetensors")
    ids, mask, expected = (golden[n] for n in ("input_ids", "attention_mask", "prompt_embeds"))
    assert_close(text.encode_ids(ids, mask), expected, rtol=0, atol=1e-5)
    # each prompt by itself, without padding: the same
    for row, length in enumerate(mask.sum(1)):
        alone = text.encode_ids(ids[row : row + 1, :length], mask[row : row + 1, :length])
        assert_close(alone[0], expected[row, :length], rtol=0, atol=1e-5)


def test_both_layouts_give_the_same(tmp_path, text):
    write_text_encoder(tmp_path, "diffusers")
    tokenizer = write_tokenizer(tmp_path, "diffusers")
    other = load_text(tmp_path / "text_encoder", tokenizer)
    assert torch.equal(other.encode(["a red star"]), text.encode(["a red star"]))


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_whole_folder(tmp_path, layout):
    from afstream.families.wan.vae import load_vae

    make_wan_folder(tmp_path, layout=layout)
    original = layout == "original"
    text = load_text(
        tmp_path / (ORIGINAL if original else "text_encoder"),
        tmp_path / ("google/umt5-xxl" if original else "tokenizer"),
    )
    assert text.encode(["a star over the meadow"]).shape == (1, 512, 32)
    vae = load_vae(tmp_path / ("Wan2.1_VAE.pth" if original else "vae"))
    assert vae.decode(torch.zeros(1, 1, 16, 2, 2))[0].shape == (1, 1, 3, 16, 16)


def test_rows_behind_a_prompt_are_zero(text):
    prompts = ["a red star", "over the meadow at night", ""]
    embeds = text.encode(prompts)
    assert embeds.shape == (3, 512, 32)
    for row, prompt in zip(embeds, prompts, strict=True):
        length = len(text.tokens(prompt))
        assert row[:length].abs().sum(1).min() > 0
        assert not row[length:].any()
    assert torch.equal(text.encode(prompts[:1])[0], embeds[0])


def test_tokens_end_with_the_end_mark(text):
    names = [
        pieces()[number][0].lstrip("\N{LOWER ONE EIGHTH BLOCK}")
        for number in text.tokens("the red star")
    ]
    assert names == ["the", "red", "star", "</s>"]
    assert text.tokens("") == [1]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("  a  red\n\tstar ", "a red star"),
        ("salt &amp; pepper", "salt & pepper"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("a&nbsp;star", "a star"),
        ("the man\u2019s \u201chat\u201d", 'the man\'s "hat"'),
        ("the man&rsquo;s", "the man's"),
        ("\u7ea2\u8272\u7684\u661f", "\u7ea2\u8272\u7684\u661f"),
    ],
)
def test_prompts_are_cleaned(prompt, expected):
    assert clean(prompt) == expected


def test_the_normalisation_of_the_file_is_used(text):
    assert text.tokens("\ufb01ne") == text.tokens("fine")


def test_a_prompt_that_is_too_long(text):
    assert len(text.tokens("star " * 511)) == 512
    with pytest.raises(PromptError, match=r"has 513 tokens; 512 are allowed") as caught:
        text.encode(["a red star", "star " * 512])
    assert len(str(caught.value)) < 150


def test_a_tokenizer_that_cuts_or_pads_does_not_hide_it(tmp_path, folder):
    tokenizer = write_tokenizer(tmp_path, "diffusers")
    file = tokenizer / "tokenizer.json"
    content = json.loads(file.read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 8,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    content["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    file.write_text(json.dumps(content))
    text = load_text(folder / ORIGINAL, tokenizer, text_len=8)
    assert len(text.tokens("star")) == 2
    with pytest.raises(PromptError, match=r"has 10 tokens; 8 are allowed"):
        text.encode(["star " * 9])


def test_a_prompt_is_encoded_once(text, monkeypatch):
    calls = counted(text, monkeypatch)
    first = text.encode(["a red star"])
    again = text.encode(["a red star", "a blue star"])
    assert len(calls) == 2
    assert torch.equal(first[0], again[0])
    # what a caller does to its copy is its own business
    first.zero_()
    assert torch.equal(text.encode(["a red star"])[0], again[0])


def test_old_prompts_are_forgotten(text, monkeypatch):
    calls = counted(text, monkeypatch)
    text.encode(["a red star"])
    for number in range(WAN.kept_prompts):
        text.encode([f"star {number}", "a red star"])
    assert len(calls) == WAN.kept_prompts + 1
    assert len(text._kept) == WAN.kept_prompts
    text.encode(["star 0"])
    assert len(calls) == WAN.kept_prompts + 2


def test_threads_may_encode_at_once(text, monkeypatch):
    calls = counted(text, monkeypatch)
    threads = [threading.Thread(target=text.encode, args=([f"star {n % 4}"],)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 4


def test_embeddings_made_in_a_stream_can_be_trained_on(text):
    with torch.inference_mode():
        text.encode(["the night over the meadow"])
    embeds = text.encode(["the night over the meadow"])
    assert not embeds.is_inference()
    layer = torch.nn.Linear(32, 4)
    layer(embeds).sum().backward()
    assert layer.weight.grad is not None


def test_bfloat16(folder, text):
    other = load_text(folder / ORIGINAL, folder / "google" / "umt5-xxl", dtype=torch.bfloat16)
    embeds = other.encode(["a red star"])
    assert embeds.dtype == torch.bfloat16
    expected = text.encode(["a red star"])
    assert (embeds.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_token_embedding_is_held_once(text):
    assert text.encoder.shared.weight is text.encoder.encoder.embed_tokens.weight


class RunsCode:
    def __reduce__(self):
        return print, ("code from a file has run",)


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda w: without(w, "token_embedding.weight"), r"no shared\.weight of 2"),
        (lambda w: without(w, "blocks.1.norm2.weight"), r"1 missing.*block\.1\.layer\.1"),
        (lambda w: {"conv1.weight": torch.zeros(3)}, r"no shared\.weight of 2 axes"),
        (
            lambda w: {**w, "norm.weight": torch.zeros(7)},
            r"final_layer_norm\.weight is \(7,\), the model needs \(32,\)",
        ),
        (lambda w: {**w, "decoder.weight": torch.zeros(7)}, r"1 unknown.*decoder\.weight"),
        (lambda w: RunsCode(), "could run code"),
    ],
    ids=["name missing", "inner name missing", "other family", "other shape", "unknown", "code"],
)
def test_wrong_files_are_told_in_one_sentence(tmp_path, folder, capsys, spoil, says):
    path = tmp_path / ORIGINAL
    torch.save(spoil(torch.load(folder / ORIGINAL, weights_only=True)), path)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_text(path, folder / "google" / "umt5-xxl")
    assert "\n" not in str(caught.value)
    assert "has run" not in capsys.readouterr().out


def test_a_truncated_file(tmp_path, folder):
    path = tmp_path / ORIGINAL
    path.write_bytes((folder / ORIGINAL).read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cut short"):
        load_text(path, folder / "google" / "umt5-xxl")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "t5"}, "describes a t5 model"),
        ({"model_type": 5}, "describes a 5 model"),
        ({"d_kv": 1e30}, r"d_kv is 1e\+30; it must be a whole number, 1 to 65536; give that file"),
        (
            {"feed_forward_proj": "gated-nope"},
            "sizes that make no model: 'nope'; give Wan2.1's own",
        ),
        ({"num_layers": 3}, "missing"),
        ({"d_ff": 41}, "the model needs"),
    ],
    ids=str,
)
def test_wrong_configs(tmp_path, folder, change, says):
    encoder = write_text_encoder(tmp_path, "diffusers")
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=says):
        load_text(encoder, folder / "google" / "umt5-xxl")


def test_bad_tokenizers(tmp_path, folder):
    encoder = folder / ORIGINAL
    with pytest.raises(CheckpointError, match="no tokenizer at"):
        load_text(encoder, tmp_path / "tokenizer")
    tokenizer = write_tokenizer(tmp_path, "diffusers")
    (tokenizer / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        load_text(encoder, tokenizer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        load_text(encoder, tmp_path / "empty")


def test_a_tokenizer_of_another_encoder(tmp_path, folder):
    weights = torch.load(folder / ORIGINAL, weights_only=True)
    weights["token_embedding.weight"] = weights["token_embedding.weight"][:20].clone()
    torch.save(weights, tmp_path / ORIGINAL)
    with pytest.raises(CheckpointError, match=r"knows \d+ tokens, the text encoder 20"):
        load_text(tmp_path / ORIGINAL, folder / "google" / "umt5-xxl")


def test_transformers_is_missing(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'afstream\[wan\]'$"):
        load_text(folder / ORIGINAL, folder / "google" / "umt5-xxl")
