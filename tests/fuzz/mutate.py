"""Random changes of bytes, as files are damaged and as people attack parsers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

# what has broken parsers before, JSON's and others'
TOKENS: tuple[bytes, ...] = (
    *(b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"\n", b"\r\n", b"\t", b"\0", b" ", b"="),
    *(b"null", b"true", b"false", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1e400", b"-0.0"),
    *(b"0", b"-1", b"1", b"0.5", b"2147483648", b"9223372036854775808", b"9" * 30, b"9" * 5000),
    *(b"\\ud800", b"\\u0000", b"\\u001b[2J", b"\x1b]0;x\x07", b"\xff", b"\xed\xa0\x80"),
    *(
        "\u202e".encode(),
        "\u2028".encode(),
        "\ufeff".encode(),
        "\u0661".encode(),
        b"\x85",
        b"\xc2\x9b",
    ),
    *(b"../", b"..", b"/etc/passwd", b"/dev/zero", b"x" * 300, b"[" * 200, b'{"a":' * 100),
)
MOST_CHANGES = 6
LONGEST_PIECE = 24


def mutate(random: Random, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One of the seeds with a few changes, mostly one or two; `words` are of its format."""
    data = bytearray(random.choice(seeds))
    for _ in range(min(random.randint(1, MOST_CHANGES), random.randint(1, MOST_CHANGES))):
        change = random.choice((insert, insert, remove, repeat, replace, splice))
        change(random, data, seeds if change is splice else words)
    return bytes(data)


def insert(random: Random, data: bytearray, words: Sequence[bytes]) -> None:
    """Put a word of the format, or of those that hurt, anywhere."""
    at = random.randint(0, len(data))
    data[at:at] = random.choice(words if words and random.random() < 0.5 else TOKENS)


def remove(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Take a piece away."""
    start, stop = piece(random, data)
    del data[start:stop]


def repeat(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Put a piece at another place as well."""
    start, stop = piece(random, data)
    at = random.randint(0, len(data))
    data[at:at] = data[start:stop]


def replace(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Change one byte, or one of its bits."""
    if data:
        at = random.randrange(len(data))
        data[at] = random.choice((data[at] ^ 1 << random.randrange(8), random.randrange(256)))


def splice(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    """Go on as another seed goes on."""
    other = random.choice(seeds)
    del data[random.randint(0, len(data)) :]
    data += other[random.randint(0, len(other)) :]


def piece(random: Random, data: bytearray) -> tuple[int, int]:
    """First and last byte of a piece of the data."""
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.randint(1, LONGEST_PIECE))
