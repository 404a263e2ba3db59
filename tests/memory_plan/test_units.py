"""Amounts of memory, read and shown."""

import pytest

from afstream.errors import ConfigError
from afstream.memory_plan.units import read_bytes, show_bytes


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("12GiB", 12 * 2**30),
        ("12G", 12 * 2**30),
        ("12GB", 12 * 10**9),
        ("12288MiB", 12 * 2**30),
        ("12288 mib", 12 * 2**30),
        ("1.5TiB", 3 * 2**39),
        ("64k", 2**16),
    ],
)
def test_amounts(text, amount):
    assert read_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "12", "GiB", "0GiB", "-1GiB", "12 apples", "12Gi", "1e9MB"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"--gpu-memory is .* such as 12GiB, 12GB or 12288MiB"):
        read_bytes(text)


def test_shown_in_the_unit_that_fits():
    assert show_bytes(11 * 2**30 + 2**29) == "11.5 GiB"
    assert show_bytes(512 * 2**20) == "512 MiB"
