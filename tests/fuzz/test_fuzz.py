"""Changed files through every parser: a result or a sentence. `run.py` tries many more."""

import json
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.parsers import CORPUS, PARSERS, attempt, seeds_of, workplace

INPUTS = 2000

ODD = st.sampled_from(
    [None, True, 0, -1, 2**70, 0.5, float("nan"), float("inf"), "", "\x1b[2J", "\ud800"]
)
VALUES = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)
# parsers of an object of settings
OBJECTS = (
    "config",
    "text_encoder",
    "vae",
    "index",
    "manifest",
    "tokenizer",
    "pocket",
    "safetensors",
)


@pytest.fixture(scope="module")
def shm():
    with workplace() as folder:
        yield folder


@pytest.mark.parametrize("name", PARSERS)
def test_changed_files_give_something_or_one_sentence(shm, name):
    parser, seeds, random = PARSERS[name], seeds_of(name), Random(name)
    folder = shm / name
    folder.mkdir()
    taken = sum(
        attempt(parser, folder / parser.file, parser.make(random, seeds)) for _ in range(INPUTS)
    )
    # changes that are all found, or none of them, would try nothing
    assert 0 < taken < INPUTS


@pytest.mark.parametrize("name", OBJECTS)
@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_place_gives_something_or_one_sentence(shm, name, data):
    parser = PARSERS[name]
    content = json.loads(data.draw(st.sampled_from(parser.seeds())))
    place = content
    while isinstance(place, dict) and place:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
            break
        place = place[key]
    text = json.dumps(content).encode()
    folder = shm / f"any-{name}"
    folder.mkdir(exist_ok=True)
    attempt(parser, folder / parser.file, parser.pack(text) if parser.pack else text)


@pytest.mark.parametrize(
    "path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_the_corpus_is_refused(shm, path):
    parser = PARSERS[path.parent.name]
    folder = shm / "corpus"
    folder.mkdir(exist_ok=True)
    assert not attempt(parser, folder / parser.file, path.read_bytes())
