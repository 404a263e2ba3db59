"""A pocket model's file: what it says is checked before a network is built."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file
from tests.engine.toy import SIZES, toy_model

from afstream.errors import CheckpointError, PromptError
from afstream.families.pocket.facts import POCKET_PATH
from afstream.families.pocket.model import load_parts, read_sizes, save_pocket
from afstream.families.pocket.text import PocketText
from afstream.families.pocket.vae import PocketVae
from afstream.families.pocket.vocabulary import TEXT_LEN, known_words, vocabulary
from afstream.model.dit import Backbone


@pytest.fixture
def write(tmp_path):
    """Write a pocket model's file whose settings were changed, without weights."""

    def made(**changes):
        path = tmp_path / "pocket.safetensors"
        config = {
            "backbone": {**asdict(SIZES), **changes},
            "vae": {},
            "words": ["red"],
            "sampler": {"steps": [1000, 500], "shift": 5.0},
        }
        metadata = {"kind": "afstream-pocket", "config": json.dumps(config)}
        save_file({"nothing": torch.zeros(1)}, path, metadata)
        return path

    return made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": 1e30}, r"num_heads is 1e\+30; it must be a whole number, 1 to 1024"),
        ({"num_layers": 10**9}, "num_layers is 1000000000; it must be a whole number, 1 to 256"),
        ({"dim": 0}, "dim is 0; it must be a whole number, 1 to 65536"),
        ({"dim": "wide", "eps": "small"}, "dim is 'wide'; it must be a whole number, 1 to 65536"),
        ({"eps": "small"}, "eps is 'small'; it must be a number, above 0 and at most 1"),
        ({"num_heads": 3}, "dim is 32 and num_heads 3; dim must be an even multiple"),
        ({"patch": True}, "patch is true; it must be a whole number, 1 to 1024"),
    ],
    ids=str,
)
def test_impossible_sizes_are_a_sentence(write, changes, said):
    path = write(**changes)
    with pytest.raises(
        CheckpointError, match=f"damaged pocket model: backbone: {said}.*; give a whole copy"
    ):
        load_parts(path, device="meta")


def test_what_was_saved_is_read_again(tmp_path):
    model = toy_model()
    path = tmp_path / "toy.safetensors"
    assert isinstance(model.backbone, Backbone)
    assert isinstance(model.text, PocketText)
    assert isinstance(model.vae, PocketVae)
    save_pocket(path, backbone=model.backbone, text=model.text, vae=model.vae, recipe={})
    parts = load_parts(path)
    assert parts.backbone.config == SIZES
    assert parts.sampler == model.sampler
    assert parts.text.words == model.text.words
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(parts.backbone.state_dict()[name], value.half().float())


def test_the_embedded_model_knows_the_words_that_a_dry_run_knows():
    sizes = read_sizes(POCKET_PATH)
    assert (sizes.words, sizes.backbone.text_len) == (vocabulary(), TEXT_LEN)


def test_unknown_words_of_any_number_are_a_short_sentence():
    prompt = " ".join(f"wombat{number}" for number in range(5000))
    with pytest.raises(PromptError, match=r"does not know 'wombat0', .* and 4,997 more") as caught:
        known_words(prompt, vocabulary(), TEXT_LEN)
    assert len(str(caught.value)) < 700
