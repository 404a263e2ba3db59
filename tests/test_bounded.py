"""Files and JSON within bounds: what is refused, and what is read as Python's own reader does."""

import io
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afstream.bounded import MAX_DEPTH, MAX_VALUES, MB, parse_json, read_all, read_bounded

TRICKY = st.text(alphabet='ab"\\[]{},:', max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
)


@given(VALUES)
def test_json_is_read_as_python_reads_it(value):
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"nested more than {MAX_DEPTH} deep"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "nested more than"),
        ("[" * 100_000, "nested more than"),
        ("[" + "1," * MAX_VALUES + "1]", f"more than {MAX_VALUES:,} values"),
        ("[" + "{}," * MAX_VALUES + "1]", "values"),
        ("9" * 41, "a number in it has 41 digits"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "something twice under one name"),
        ('"' + '\\"' * 10**6, "Unterminated string"),
    ],
)
def test_json_beyond_its_bounds(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_json_within_its_bounds():
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep) == json.loads(deep)
    assert parse_json('["[[[[,,,,", "\\\\", "\\"]"]', most_values=4) == ["[[[[,,,,", "\\", '"]']
    assert parse_json("9" * 40) == 10**40 - 1


def test_files_within_their_bounds(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "f")
    assert read_bounded(tmp_path / "link", 5) == b"12345"
    with pytest.raises(ValueError, match=r"it has more than 4e-06 MB"):
        read_bounded(tmp_path / "f", 4)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none", 5)


class Endless(io.BytesIO):
    """A file that would never end."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        return bytes(size)


def test_no_more_is_read_than_is_allowed():
    with pytest.raises(ValueError, match="more than 1 MB"):
        read_all(Endless(), MB)


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such files")
def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "zero"):
        if path.name == "zero":
            path.symlink_to("/dev/zero")
        with pytest.raises(ValueError, match="it is no regular file"):
            read_bounded(path, 5)
