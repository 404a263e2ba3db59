"""Whatever a file holds becomes a model or one sentence: source, field, value, what is allowed."""

from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from afstream.errors import CheckpointError, ConfigError
from afstream.validation import Checked, validated

Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^\w+$", description="the name of a file")]


class Inner(Checked):
    count: Count = 1
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    rate: Annotated[float, Field(gt=0)] = 1.0
    kind: Literal["hold", "gap"] = "hold"
    betas: tuple[float, float] = (0.9, 0.99)
    frames: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    switch: bool = False
    size: Count | None = None
    name: Annotated[str, Field(pattern=r"^\w+$", description="letters and digits")] = "a"
    files: dict[Name, Count] = Field(default_factory=dict, alias="weight_map")
    values: Annotated[int, Field(ge=0, le=2**20)] = 0

    @model_validator(mode="after")
    def _seven(self):
        if self.count == 7:
            raise ConfigError("7 never comes alone")
        return self


class Outer(Checked):
    inner: Inner
    title: str = ""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"count": 1e30}, ", [inner]: count is 1e+30; it must be a whole number, at least 1"),
        ({"count": 0}, ", [inner]: count is 0; it must be a whole number, at least 1"),
        ({"count": True}, ", [inner]: count is true; it must be a whole number, at least 1"),
        ({"count": None}, ", [inner]: count is null; it must be a whole number, at least 1"),
        ({"count": "3"}, ", [inner]: count is '3'; it must be a whole number, at least 1"),
        ({"share": 1.5}, ", [inner]: share is 1.5; it must be a number, 0 to 1"),
        ({"rate": float("nan")}, ", [inner]: rate is nan; it must be a number, above 0"),
        ({"rate": float("inf")}, ", [inner]: rate is inf; it must be a number, above 0"),
        ({"kind": 3}, ", [inner]: kind is 3; choose one of hold, gap"),
        ({"betas": [0.9]}, ", [inner]: betas is [0.9]; it must be a list of 2"),
        ({"betas": [1, 2, 3]}, ", [inner]: betas is [1, 2, 3]; it must be a list of 2"),
        ({"frames": []}, ", [inner]: frames is []; it must be a list of one or more"),
        ({"frames": 3}, ", [inner]: frames is 3; it must be a list of one or more"),
        ({"frames": [-3]}, ", [inner]: frames is -3; it must be a whole number, at least 1"),
        ({"switch": 1}, ", [inner]: switch is 1; it must be true or false"),
        ({"size": 0}, ", [inner]: size is 0; it must be a whole number, at least 1"),
        ({"name": "a\nb"}, ", [inner]: name is 'a\\nb'; it must be letters and digits"),
        ({"weight_map": {"a": 0}}, ", [inner]: a is 0; it must be a whole number, at least 1"),
        ({"weight_map": {"../a": 1}}, ", [inner]: ../a is '../a'; it must be the name of a file"),
        ({"values": -1}, ", [inner]: values is -1; it must be a whole number, 0 to 1048576"),
        ({"weight_map": 3}, ", [inner]: weight_map is 3; it must be a table"),
        (
            {"cout": 3, "count": 0},
            ", [inner]: unknown key 'cout' (did you mean count?); it may hold count, share, rate",
        ),
        ({"count": 7}, ", [inner]: 7 never comes alone"),
        ({"name": "+" * 99}, f", [inner]: name is '{'+' * 59}...; it must be letters and digits"),
    ],
)
def test_a_fault_is_a_sentence_with_what_is_allowed(content, sentence):
    with pytest.raises(ConfigError) as caught:
        validated(Outer, {"inner": content}, source="a.toml")
    assert str(caught.value).startswith(f"a.toml{sentence}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "a.json: inner is missing; download it again"),
        ({"inner": 3}, "a.json: inner is 3; it must be a table; try again"),
        ([], "a.json: it is []; it must be a table; try again"),
    ],
)
def test_the_remedy_ends_the_sentence(content, sentence):
    with pytest.raises(CheckpointError) as caught:
        validated(
            Outer,
            content,
            source="a.json",
            remedy="try again",
            if_missing="download it again",
            error=CheckpointError,
        )
    assert str(caught.value) == sentence


def test_what_is_allowed_is_taken_as_it_is():
    inner = {"count": 2**70, "rate": 2, "betas": [0, 1], "frames": [3], "weight_map": {"a": 1}}
    found = validated(Outer, {"inner": inner}, source="a.toml").inner
    assert (found.count, found.rate, found.betas, found.frames) == (2**70, 2.0, (0.0, 1.0), (3,))
    assert found.files == {"a": 1}
    with pytest.raises(ValueError, match="frozen"):
        found.count = 3


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*Inner.model_fields, "weight_map", "x\n"]), json_values))
def test_anything_is_a_model_or_one_line(content):
    fault = ""
    try:
        found = validated(Outer, {"inner": content}, source="a.toml")
        assert found.inner.count >= 1
    except ConfigError as error:
        fault = str(error)
    assert not fault or fault.startswith("a.toml")
    assert fault.isprintable()
    assert len(fault) < 200
