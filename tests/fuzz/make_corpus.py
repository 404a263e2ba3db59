"""Makes the files of `tests/corpus`: `python -m tests.fuzz.make_corpus`.

Each is small and broken, or made to hurt, in one way; all must be refused with one sentence. What
would have to be large is in `test_limits.py`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from tests.fuzz.parsers import (
    CORPUS,
    LINES,
    PARSERS,
    headers,
    manifests,
    pack_header,
    pack_pickle,
    pack_pocket,
    pockets,
    texts,
    tokenizers,
    vaes,
    whole_pt,
)
from tests.gguf_bytes import Q8_0, Q8_1, Raw, gguf_bytes
from tests.gguf_bytes import text as gguf_text
from tests.wan_transformer import DIFFUSERS, ORIGINAL

F32 = '{"a": {"dtype": "F32", "shape": %s, "data_offsets": %s}}'
DEEP = b"[" * 2000
LONG = b"9" * 5000


def safetensors() -> Iterator[tuple[str, bytes]]:
    """By the header, whose tensors would fill 64 bytes."""
    good = headers()[0]
    for name, shape, offsets in (
        ("overlap", "[4]", "[8, 24]"),
        ("negative offset", "[4]", "[-16, 0]"),
        ("negative shape", "[-1, -4]", "[0, 16]"),
        ("huge shape", "[4611686018427387904, 4]", "[0, 0]"),
        ("huger shape", "[340282366920938463463374607431768211456]", "[0, 64]"),
        ("no values of a huge shape", "[0, 4611686018427387904, 4611686018427387904]", "[0, 0]"),
        ("infinite shape", "[Infinity]", "[0, 64]"),
        ("infinite offset", "[16]", "[0, Infinity]"),
        ("nan offset", "[16]", "[NaN, 64]"),
        ("float offsets", "[16]", "[0.0, 64.0]"),
        ("float shape", "[16.0]", "[0, 64]"),
        ("bool shape", "[true]", "[false, 4]"),
        ("text shape", '"16"', "[0, 64]"),
        ("object shape", '{"16": 1}', "[0, 64]"),
        ("many axes", str([1] * 100 + [16]), "[0, 64]"),
        ("long number", f"[{LONG.decode()}]", "[0, 64]"),
        ("three offsets", "[16]", "[0, 64, 64]"),
    ):
        yield name, pack_header((F32 % (shape, offsets)).encode())
    for name, header in (
        ("unknown dtype", (F32 % ("[16]", "[0, 64]")).replace("F32", "F7")),
        ("dtype is a list", (F32 % ("[16]", "[0, 64]")).replace('"F32"', '["F32"]')),
        ("half a surrogate pair", (F32 % ("[16]", "[0, 64]")).replace('"a"', r'"\ud800"')),
        ("twice one name", "{" + (F32 % ("[16]", "[0, 64]"))[1:-1] * 2 + "}"),
        ("a list", "[]"),
        ("an entry is null", '{"a": null}'),
        ("metadata is a list", '{"__metadata__": [1, 2]}'),
        ("metadata of metadata", '{"__metadata__": {"a": {"b": "c"}}}'),
        ("nothing", ""),
        ("not closed", good.decode()[:-1]),
    ):
        yield name, pack_header(header.encode())
    yield "deep", pack_header(b'{"a":' + DEEP)
    yield "header without end", (2**63).to_bytes(8, "little") + good
    yield "cut", pack_header(good)[:-1]
    yield "longer than it says", pack_header(good) + b"\0"
    yield "empty", b""
    yield (
        "control characters",
        pack_header((F32 % ("[16]", "[0, 64]")).replace('"a"', r'"\u001b[2J"').encode()),
    )
    yield "rank 0", pack_header(headers()[2].replace(b"[2, 4]", b"[0, 4]").replace(b"32", b"0"))


def gguf() -> Iterator[tuple[str, bytes]]:
    """Counts and sizes that no file has, and tensors that would be made of nothing."""
    ones = torch.ones(32)
    wan = {"general.architecture": "wan"}
    for name, content in (
        ("many tensors", gguf_bytes({}, counts=(2**63, 0))),
        ("many settings", gguf_bytes({}, counts=(0, 2**63))),
        ("other magic", b"GGML" + gguf_bytes({"a": ones})[4:]),
        ("version 1", gguf_bytes({"a": ones}, version=1)),
        ("big end", gguf_bytes({"a": ones}, version=3 << 24)),
        ("of llama", gguf_bytes({"a": ones}, {"general.architecture": "llama"})),
        ("no architecture but a number", gguf_bytes({"a": ones}, {"general.architecture": 7})),
        ("alignment 0", gguf_bytes({"a": ones}, {**wan, "general.alignment": 0})),
        ("unknown type", gguf_bytes({"a": Raw(2**31, (32,), bytes(128))})),
        ("type without an unpacker", gguf_bytes({"a": Raw(Q8_1, (32,), bytes(36))})),
        ("odd rows", gguf_bytes({"a": Raw(Q8_0, (31,), bytes(34))})),
        ("huge", gguf_bytes({"a": Raw(Q8_0, (2**40, 32), bytes(34))})),
        ("huge product", gguf_bytes({"a": Raw(Q8_0, (2**40,) * 8, bytes(34))})),
        ("no values of a huge shape", gguf_bytes({"a": Raw(Q8_0, (0, 2**62), bytes(34))})),
        ("shares values", gguf_bytes({"a": Raw(0, (32,), b""), "b": ones})),
        ("many axes", gguf_bytes({"a": Raw(0, (1,) * 9, bytes(4))})),
        ("no axes", gguf_bytes({"a": Raw(0, (), bytes(4))})),
        ("control characters", gguf_bytes({"\x1b[2J": Raw(Q8_1, (32,), bytes(36))})),
        ("a pair", gguf_bytes(lora(torch.ones(1, 32), torch.ones(32, 1)))),
        ("cut", gguf_bytes({"a": ones})[:-1]),
        ("cut header", gguf_bytes({"a": ones})[:40]),
        ("nothing", gguf_bytes({})),
    ):
        yield name, content
    for name, shape in (("another shape", [3, 5]), ("negative shape", [-4, -8]), ("texts", ["a"])):
        settings = {**wan, "comfy.gguf.orig_shape.a": shape}
        yield f"was of {name}", gguf_bytes({"a": ones}, settings)
    yield "long text", gguf_bytes({"a": ones}).replace(gguf_text("wan"), b"\xff" * 8 + b"wan", 1)
    words = gguf_bytes({"a": ones}, {"tokenizer.ggml.tokens": ["a"]})
    one = (1).to_bytes(8, "little") + gguf_text("a")
    yield "long list", words.replace(one, b"\xff" * 7 + b"\0" + gguf_text("a"), 1)


class Calls:
    """A pickle of this calls something."""

    def __init__(self, call: Any, *given: object) -> None:
        self.call, self.given = call, given

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call, self.given


def saved(content: object) -> bytes:
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


def pt() -> Iterator[tuple[str, bytes]]:
    """Files of torch.save; the calls would leave a file in /tmp."""
    mark = "open('/tmp/afstream-ran-code', 'w')"
    for name, call in (
        ("system", Calls(vars(os)["system"], "touch /tmp/afstream-ran-code")),
        ("eval", Calls(eval, mark)),
        ("exec", Calls(exec, mark)),
        ("import", Calls(__import__, "os")),
        ("load", Calls(torch.load, "/tmp/other.pt")),
        ("hub", Calls(torch.hub.load, "a/b", "c")),
    ):
        yield f"calls {name}", saved({"w": call})
        yield f"raw, calls {name}", pickle.dumps({"w": call})
    weight = torch.zeros(4)
    for name, content in (
        ("a whole number for a name", {1: weight}),
        ("none for a name", {None: weight}),
        ("a tuple for a name", {("a", "b"): weight}),
        ("control characters", {"\x1b[2J\x1b]0;title\x07a": weight}),
        ("sparse", {"w": torch.zeros(4, 4).to_sparse()}),
        ("complex", {"w": torch.zeros(4, dtype=torch.complex64)}),
        ("meta", {"w": torch.zeros(4, device="meta")}),
        ("expanded", {"w": torch.zeros(1).expand(2**30, 2**30)}),
        ("a list", [weight]),
        ("a number", 7),
        ("nothing", {}),
        ("no tensors", {"generator": {"a": 7}}),
        ("generator is a tensor", {"generator": weight}),
        (
            "many layers",
            {"blocks.99999999999.ffn.0.weight": weight, "patch_embedding.weight": weight},
        ),
        ("LoRA of rank 0", lora(torch.zeros(0, 4), torch.zeros(4, 0))),
        ("LoRA of half a pair", {"a.lora_A.weight": torch.zeros(1, 4)}),
        ("LoRA that does not multiply", lora(torch.zeros(2, 4), torch.zeros(4, 3))),
        ("LoRA of vectors", lora(weight, weight)),
        (
            "LoRA of alpha nan",
            {**lora(torch.ones(1, 4), torch.ones(4, 1)), "a.alpha": torch.tensor(float("nan"))},
        ),
    ):
        yield name, saved(content)
    for name, content in (
        ("fills memory", b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\x7f\0\x85R."),
        ("encodes for ever", b"\x80\x02c_codecs\nencode\nX\1\0\0\0aX\4\0\0\0idna\x86R."),
        ("refers to itself", b"\x80\x02}q\0X\1\0\0\0ah\0s."),
        ("deep", b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."),
        ("text without end", b"\x80\x02X\xff\xff\xff\x7fabc."),
        ("garbage", b"\x80\x02garbage"),
        ("pops nothing", b"\x80\x02000."),
        ("no pickle", b""),
    ):
        yield name, pack_pickle(content)
    good = whole_pt(student_of_ones)
    old = io.BytesIO()
    torch.save(student_of_ones(), old, _use_new_zipfile_serialization=False)
    yield "old, cut", old.getvalue()[:-4]
    yield "old, cut pickles", old.getvalue()[:200]
    yield "old, fills memory", old.getvalue().replace(b"generator", b"bytearray")
    yield "old, more values than there are", old.getvalue().replace(b"K\2", b"J\2\0\0\x40")
    yield "cut", good[: len(good) // 2]
    yield "empty", b""
    yield "empty archive", b"PK\5\6" + bytes(18)
    yield "something behind", good + b"x"
    yield "with a comment", good[:-2] + b"\1\0x"
    for name, change in (
        ("no values", lambda name, data: None if "/data/" in name else (name, data)),
        ("leaves its folder", lambda name, data: (f"../../{name}", data)),
    ):
        yield name, repacked(good, change)
    yield "compressed", repacked(good, lambda name, data: (name, data), zipfile.ZIP_DEFLATED)
    yield "grows", repacked(good, grown, zipfile.ZIP_DEFLATED)


def grown(name: str, data: bytes) -> tuple[str, bytes]:
    """A pickle of a million nothings, which compresses well."""
    return name, b"\x80\x02" + b"N0" * 10**6 if name.endswith("pkl") else data


def student_of_ones() -> object:
    return {"generator": {"a": torch.ones(2)}}


def lora(down: torch.Tensor, up: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a.lora_A.weight": down, "a.lora_B.weight": up}


def repacked(whole: bytes, change: Any, method: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as source,
        zipfile.ZipFile(made, "w", method) as target,
    ):
        for name in source.namelist():
            if record := change(name, source.read(name)):
                target.writestr(*record)
    return made.getvalue()


def settings(good: bytes, *changes: Mapping[str, object]) -> Iterator[tuple[str, bytes]]:
    """Single values that are not allowed, and what no parser of settings may take."""
    for change in changes:
        name = " ".join(f"{key} {value!r}"[:40] for key, value in change.items())
        text = json.dumps({**json.loads(good), **change}).encode()
        yield name.replace("/", "_").replace("\\", "_"), text.replace(b'"LONG"', LONG)
    yield "deep list", DEEP
    yield "deep object", b'{"a":' * 2000
    yield "a list", b"[1]"
    yield "a text", b'"a"'
    yield "not UTF-8", good.replace(b"{", b'{"\xff": 1,', 1)
    yield "not closed", good[:-1]
    yield "twice one name", good[:-1] + b", " + good[1:]
    yield "empty", b""


def bounded(*names: str) -> list[dict[str, object]]:
    """What no size may be."""
    odd = (0, -1, 10**9, 1e30, 1.5, True, "x", [1], "LONG")
    return [{name: value} for name in names for value in odd]


def configs() -> Iterator[tuple[str, bytes]]:
    original, theirs = json.dumps(ORIGINAL).encode(), json.dumps(DIFFUSERS).encode()
    names = ("dim", "num_heads", "num_layers", "text_len")
    yield from settings(original, *bounded(*names), {"eps": "nan"}, {"patch_size": [0, 0, 0]})
    yield from settings(theirs, {"attention_head_dim": -4}, {"_class_name": "../../x"})


def manifest_files() -> Iterator[tuple[str, bytes]]:
    written = {"sha256": "0" * 64, "bytes": 7}
    names = (
        "../../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "..",
        ".",
        "",
        "a\0",
        "a\x1b[2J",
        "vae/",
    )
    outside = [{"files": {name: written}} for name in names]
    others = ({"sha256": "0", "bytes": 7}, {"sha256": "0" * 64, "bytes": float("inf")}, 7)
    yield from settings(
        manifests()[0],
        *outside,
        *({"files": {"a": other}} for other in others),
        *(
            {"backbone": {name: value}}
            for name in ("num_heads", "dim")
            for value in (0, 10**9, "x")
        ),
        {"format": 2},
        {"dtype": "float8"},
        {"parts": ["evil"]},
        {"made_from": {"folder": 7}},
    )


def tokenizer_files() -> Iterator[tuple[str, bytes]]:
    good = tokenizers()[1]
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 16}
    anywhere = {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "a" * 100}
    yield from settings(
        good,
        {"normalizer": {"type": "Sequence", "normalizers": [step] * 9}},
        {"normalizer": anywhere},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100}},
        {"normalizer": {"type": "Evil"}},
        {"model": {"type": "Unigram", "vocab": [["a", 0]] * 100, "unk_id": 0}},
        {"model": {}},
        {"model": None},
    )


def recipe_files() -> Iterator[tuple[str, bytes]]:
    for name, text in (
        ("no model", ""),
        ("unknown model", 'model = "evil"'),
        ("model is a list", "model = []"),
        ("tables missing", 'model = "pocket"'),
        ("long number", f"model = {LONG.decode()}"),
        ("deep", "model = " + "[" * 2000),
        ("twice one name", 'model = "pocket"\nmodel = "wan"'),
        ("control character", 'model = "\x1b[2J"'),
    ):
        yield name, text.encode()
    yield "not UTF-8", b'model = "\xff"'


def timelines() -> Iterator[tuple[str, bytes]]:
    for name, text in (
        ("escape", "0:00 a \x1b]0;title\x07 fox"),
        ("nul", "0:00 a\0fox"),
        ("right to left", "0:00 a \u202efox"),
        ("note", '0:00 note="\x1b[31m" a fox'),
        ("name with escape", "@let a = \x1b[2J\n0:00 {a}"),
        ("doubles", doubling(24)),
        ("multiplies", f"@let a = {'x' * 19_000}\n0:00 {'{a}' * 1000}"),
        ("unknown name", "".join(f"@let a{n} = b\n" for n in range(400)) + "0:00 {c}"),
        ("long line", "0:00 " + "x" * 20_001),
        ("no cue", "# nothing\n"),
        ("huge time", "0:00 a\n[9999999999s] b"),
        ("seed", "@seed 99999999999999999999\n0:00 a"),
    ):
        yield name, text.encode()
    yield "not UTF-8", b"0:00 \xff"
    yield "half a surrogate pair", b"0:00 \xed\xa0\x80"


def doubling(times: int) -> str:
    """Names of which each has twice the text of the one before."""
    names = [chr(ord("a") + number) for number in range(times + 1)]
    lets = (f"@let {new} = {{{old}}} {{{old}}}" for old, new in pairwise(names))
    return "\n".join(["@let a = word", *lets])


def json_lines() -> Iterator[tuple[str, bytes]]:
    for name, text in (
        ("escape", r'{"prompts": ["\u001b]0;title\u0007"]}'),
        ("half a surrogate pair", r'{"prompts": ["\ud800"]}'),
        ("twice one name", '{"prompts": ["a"], "prompts": ["b"]}'),
        ("two keys", '{"prompts": ["a"], "prompt": "b"}'),
        ("long number", '{"prompts": ["a"], "seed": ' + LONG.decode() + "}"),
        ("deep", '{"prompts": ' + DEEP.decode()),
        ("many prompts", json.dumps({"prompts": ["a"] * 10_001})),
        ("not text", '{"prompts": [1]}'),
        ("a list", "[]"),
        ("not closed", LINES[0][:-3]),
        ("nothing", "\n"),
    ):
        yield name, text.encode()


def pocket_files() -> Iterator[tuple[str, bytes]]:
    said = json.loads(pockets()[0])
    for part, change in (
        ("backbone", {"dim": 10**9}),
        ("backbone", {"num_layers": 1000}),
        ("vae", {"coarse": 10**9}),
        ("vae", {"coarse_layers": -1}),
        ("sampler", {"steps": [float("nan")]}),
    ):
        text = json.dumps({**said, part: {**said[part], **change}}).encode()
        yield f"{part} {next(iter(change))}", pack_pocket(text)
    yield "words", pack_pocket(json.dumps({**said, "words": [7]}).encode())
    yield "deep", pack_pocket(DEEP)


MAKERS = {
    "safetensors": safetensors,
    "pt": pt,
    "gguf": gguf,
    "config": configs,
    "text_encoder": lambda: settings(texts()[0], *bounded("d_kv", "num_layers", "vocab_size")),
    "vae": lambda: settings(
        vaes()[0],
        *bounded("base_dim", "num_res_blocks"),
        {"latents_std": [0] * 16},
        {"latents_mean": "x"},
    ),
    "index": lambda: settings(
        b'{"weight_map": {"a": "model-1.safetensors"}}',
        {"weight_map": [1]},
        {"weight_map": {}},
        {"weight_map": {"a": "../../etc/passwd"}},
        {"weight_map": {"a": ".."}},
        {"weight_map": {"a": ""}},
        {"weight_map": {"a": "x\0y"}},
        {"weight_map": {str(number): f"{number}.safetensors" for number in range(500)}},
    ),
    "manifest": manifest_files,
    "tokenizer": tokenizer_files,
    "recipe": recipe_files,
    "timeline": timelines,
    "jsonl": json_lines,
    "pocket": pocket_files,
}


def main() -> None:
    """Write every file anew."""
    assert MAKERS.keys() == PARSERS.keys()
    for name, make in MAKERS.items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for title, content in make():
            (folder / "".join(c if c.isalnum() else "-" for c in title)).write_bytes(content)


if __name__ == "__main__":
    main()
