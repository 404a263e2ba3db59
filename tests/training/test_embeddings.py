"""Cached prompts: encoded once, the same as the encoder's, refusing what they cannot serve."""

import pytest
import torch

from afstream.errors import CheckpointError, PromptError
from afstream.training.wan import embeddings
from afstream.training.wan.embeddings import CachedPrompts, EmbeddingCache, read_pairs

NEGATIVE = "ugly"


class Letters:
    """An encoder that counts how often it is asked."""

    def __init__(self):
        self.asked = []

    def encode(self, prompts):
        self.asked.extend(prompts)
        rows = torch.zeros(len(prompts), 12, 2, dtype=torch.bfloat16)
        for row, prompt in zip(rows, prompts, strict=True):
            for place, letter in enumerate(prompt):
                row[place, 0] = ord(letter)
        return rows


@pytest.fixture
def text():
    return Letters()


def test_prompts_are_encoded_once_and_come_back_as_they_were(tmp_path, text):
    prompts = ["one", "two", "three", "one"]
    cache = EmbeddingCache(tmp_path, "letters")
    assert cache.missing(prompts) == ["one", "two", "three"]
    assert cache.add(prompts, text, batch=2) == 3
    again = EmbeddingCache(tmp_path, "letters")
    assert again.add(prompts, text) == 0
    assert text.asked == ["one", "two", "three"]
    found = again.get(["three", "one"])
    # only as long as the longest of them
    assert found.shape == (2, 5, 2)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, text.encode(["three", "one"])[:, :5])


def test_another_encoder_shares_nothing(tmp_path, text):
    EmbeddingCache(tmp_path, "letters").add(["one"], text)
    other = EmbeddingCache(tmp_path, "numbers")
    assert other.missing(["one"]) == ["one"]
    with pytest.raises(PromptError, match="'one' is not in the cache"):
        other.get(["one"])


def test_a_kill_loses_one_file_at_most(tmp_path, text, monkeypatch):
    monkeypatch.setattr(embeddings, "PROMPTS_PER_FILE", 2)

    class Killed(Letters):
        def encode(self, prompts):
            if "four" in prompts:
                raise KeyboardInterrupt
            return super().encode(prompts)

    cache = EmbeddingCache(tmp_path, "letters")
    prompts = ["one", "two", "three", "four"]
    with pytest.raises(KeyboardInterrupt):
        cache.add(prompts, Killed())
    (tmp_path / "left.partial").write_bytes(b"half")
    again = EmbeddingCache(tmp_path, "letters")
    assert again.add(prompts, text) == 2
    assert text.asked == ["three", "four"]


def test_an_empty_prompt_is_one_row_of_zeros(tmp_path, text):
    cache = EmbeddingCache(tmp_path, "letters")
    cache.add([""], text)
    assert torch.equal(cache.get([""]), torch.zeros(1, 1, 2, dtype=torch.bfloat16))


def test_pairs_come_by_number_each_once_before_any_comes_again(tmp_path, text):
    pairs = [(f"a{n}", f"b{n}") for n in range(5)]
    cache = EmbeddingCache(tmp_path, "letters")
    cache.add([NEGATIVE, *(prompt for pair in pairs for prompt in pair)], text)
    prompts = CachedPrompts(pairs, cache, NEGATIVE, seed=1)

    def order(numbers):
        first, second = prompts.pair(numbers)
        assert torch.equal(first[:, 1], second[:, 1])
        assert (first[:, 0] != second[:, 0]).any(dim=1).all()
        return [chr(int(value)) for value in first[:, 1, 0]]

    epochs = [order(range(5)), order(range(5, 10))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list("01234")
    assert epochs[0] != epochs[1]
    # a number's pair does not depend on who asks, and with what else
    assert order([7]) + order([1]) == [epochs[1][2], epochs[0][1]]
    assert torch.equal(prompts.unconditional(3), cache.get([NEGATIVE] * 3))


def test_files_of_pairs(tmp_path):
    lines = tmp_path / "pairs.jsonl"
    lines.write_text('{"prompts": ["one", "two", "three"], "seed": 1}\n\n{"prompts": "alone"}\n')
    assert read_pairs(lines) == (("one", "two"), ("alone", "alone"))
    plain = tmp_path / "prompts.txt"
    plain.write_text("one \n\n two\n")
    assert read_pairs(plain) == (("one", "one"), ("two", "two"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompts": ["a", "b"]}\n{"prompt": "a"}', r"pairs.jsonl:2: no pair .* write \{"),
        ("[1]", "pairs.jsonl:1: no pair"),
        ('{"prompts": ["a", 1]}', "pairs.jsonl:1: no pair"),
        ('{"prompts": []}', "pairs.jsonl:1: a prompt is empty"),
        ('{"prompts": ["a", " "]}', "pairs.jsonl:1: a prompt is empty"),
        ("\n", "has no prompts; give at least one line"),
        (None, "cannot be read as a list of prompts"),
    ],
)
def test_bad_files_say_where(tmp_path, content, message):
    path = tmp_path / "pairs.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PromptError, match=message):
        read_pairs(path)


def test_a_broken_cache_says_what_to_delete(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"x.safetensors cannot be read .* delete it"):
        EmbeddingCache(tmp_path, "letters")
