"""Every parser of bytes that others wrote: what it is tried on, and how it is called.

A parser gives something or raises an `AfstreamError`; anything else is a fault, and so is a message
that is long or that would steer a terminal once it is shown.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from tests.fuzz.mutate import mutate
from tests.gguf_bytes import Q8_0, Raw, gguf_bytes
from tests.timeline.clocks import CLOCK
from tests.wan_transformer import CONFIG, DIFFUSERS, ORIGINAL

from afstream.checkpoints import files, manifest, read_student, shards, sizes
from afstream.checkpoints.configs import TextEncoderFile, VaeFile
from afstream.checkpoints.identify import identify
from afstream.checkpoints.lora import read_lora
from afstream.config import BackboneConfig
from afstream.errors import AfstreamError, CheckpointError
from afstream.families.pocket.facts import KIND, POCKET_PATH
from afstream.families.pocket.model import read_sizes
from afstream.families.wan.tokenizer import read_tokenizer
from afstream.text import printable
from afstream.timeline import LiveReader, Timeline
from afstream.timeline.imports import ImportOptions
from afstream.timeline.imports.jsonl import parse as parse_jsonl
from afstream.timeline.lines import decode
from afstream.training.recipes.reading import FOLDER as RECIPES
from afstream.training.recipes.reading import load_recipe
from afstream.validation import validated

CORPUS = Path(__file__).parents[1] / "corpus"
LONGEST_MESSAGE = 1000
# share of files that are changed as a whole, checksums and all
RAW = 0.3
# bytes of a file of the corpus that is changed
SMALL = 5000


class Parser(NamedTuple):
    """How to try one parser.

    Attributes:
        file: what its file is called.
        parse: reads the file; called with its path.
        seeds: contents that are changed; those of the corpus come beside them.
        words: of the format, to be put in anywhere.
        pack: makes a whole file of changed content, so that the changes get past its checksums.
    """

    file: str
    parse: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()
    pack: Callable[[bytes], bytes] | None = None

    def make(self, random: Random, seeds: list[bytes]) -> bytes:
        """One input."""
        if self.pack is None:
            return mutate(random, seeds, self.words)
        if random.random() < RAW:
            return mutate(random, [self.pack(seed) for seed in seeds], self.words)
        return self.pack(mutate(random, seeds, self.words))


class FaultyError(Exception):
    """What a parser did that it must not do."""


def attempt(parser: Parser, path: Path, data: bytes) -> bool:
    """Whether a parser takes some bytes; raises `FaultyError` where it does neither."""
    path.write_bytes(data)
    try:
        parser.parse(path)
    except AfstreamError as error:
        said = str(error).replace(str(path.parent), "")
        if len(said) > LONGEST_MESSAGE:
            raise FaultyError(f"a message of {len(said)} characters: {said[:200]}") from error
        printable(said).encode()
        return False
    except Exception as error:
        raise FaultyError(f"{type(error).__name__}: {str(error)[:200]}") from error
    return True


@contextmanager
def workplace() -> Generator[Path]:
    """A folder in memory where there is one, removed afterwards."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def seeds_of(name: str) -> list[bytes]:
    """What a parser's files look like: good ones, and as many small ones of the corpus."""
    parser = PARSERS[name]
    found = sorted((CORPUS / name).glob("*")) if parser.pack is None else []
    bad = [path.read_bytes() for path in found if path.stat().st_size < SMALL]
    good = parser.seeds()
    return good * max(1, len(bad) // len(good)) + bad


# safetensors


def pack_header(header: bytes, num_bytes: int = 64) -> bytes:
    """A file with this header, and as many values as the good ones have."""
    return len(header).to_bytes(8, "little") + header + bytes(num_bytes)


def headers() -> list[bytes]:
    def entry(shape: list[int], start: int, stop: int) -> dict[str, Any]:
        return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}

    layer = "blocks.0.self_attn.q"
    good: list[dict[str, Any]] = [
        {"a": entry([4], 0, 16), "b": entry([3, 4], 16, 64)},
        {"__metadata__": {"format": "pt"}, "patch_embedding.weight": entry([2, 2, 1, 2, 2], 0, 64)},
        {
            # most of it may change without harm, so that not all changes are refused
            "__metadata__": {"lora_alpha": "8", "remark": "a pair of halves " * 12},
            f"{layer}.lora_A.weight": entry([2, 4], 0, 32),
            f"{layer}.lora_B.weight": entry([4, 2], 32, 64),
        },
    ]
    return [json.dumps(one).encode() for one in good]


def read_any_weights(path: Path) -> object:
    """Everything that reads a file of weights, each whether the one before took it or not."""
    for read in (files.read_metadata, read_lora, read_student):
        with suppress(AfstreamError):
            read(path)
    found = identify(path)
    if found.kind == "unknown":
        # as the command does
        raise CheckpointError("; ".join(found.notes))
    return found.num_parameters, found.fits, found.missing


# torch's


@cache
def whole_pt(content: Callable[[], object]) -> bytes:
    made = io.BytesIO()
    torch.save(content(), made)
    return made.getvalue()


def student() -> object:
    weights = {"model.blocks.0.ffn.0.weight": torch.ones(2, 2), "patch_embedding.weight": ONES}
    return {"generator_ema": weights, "generator": weights}


def pair() -> object:
    layer = "blocks.0.self_attn.q"
    return {f"{layer}.lora_A.weight": torch.ones(1, 4), f"{layer}.lora_B.weight": torch.ones(4, 1)}


ONES = torch.ones(2, 2, 1, 2, 2)


def pickles() -> list[bytes]:
    found: list[bytes] = []
    for content in (student, pair):
        with zipfile.ZipFile(io.BytesIO(whole_pt(content))) as archive:
            name = next(one for one in archive.namelist() if one.endswith("data.pkl"))
            found.append(archive.read(name))
    return found


def pack_pickle(pickle: bytes) -> bytes:
    """A file as torch.save writes it, with another pickle."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole_pt(student))) as source,
        zipfile.ZipFile(made, "w") as target,
    ):
        for name in source.namelist():
            target.writestr(name, pickle if name.endswith("data.pkl") else source.read(name))
    return made.getvalue()


# GGUF's


def gguf_files() -> list[bytes]:
    """A part of a backbone and one of a text encoder, packed and plain, with a vocabulary."""
    settings = {
        "general.architecture": "wan",
        "comfy.gguf.orig_shape.patch_embedding.weight": [2] * 5,
    }
    words = {"general.architecture": "t5encoder", "tokenizer.ggml.tokens": ["a", "b"] * 20}
    return [
        gguf_bytes(
            {
                "patch_embedding.weight": torch.ones(4, 8),
                "blocks.0.ffn.0.weight": Raw(Q8_0, (2, 32), bytes(68)),
            },
            settings,
        ),
        gguf_bytes(
            {
                "token_embd.weight": torch.ones(2, 4).half(),
                "enc.blk.0.attn_q.weight": torch.ones(2, 4).bfloat16(),
            },
            words,
        ),
    ]


# settings


def read_config(path: Path) -> object:
    said = sizes.read_config(path)
    whole = {**asdict(CONFIG), **said}
    whole.pop("head_dim", None)
    whole.pop("patch_size", None)
    return validated(BackboneConfig, whole, source="sizes")


def as_json(*contents: object) -> list[bytes]:
    return [json.dumps(one).encode() for one in contents]


def texts() -> list[bytes]:
    return as_json(
        {
            "model_type": "umt5",
            "vocab_size": 60,
            "d_model": 32,
            "d_kv": 4,
            "d_ff": 40,
            "num_layers": 2,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
        }
    )


def vaes() -> list[bytes]:
    return as_json(
        {
            "_class_name": "AutoencoderKLWan",
            "base_dim": 4,
            "z_dim": 16,
            "dim_mult": [1, 2, 4, 4],
            "temperal_downsample": [False, True, True],
            "latents_mean": [0.5] * 16,
            "latents_std": [1.5] * 16,
        }
    )


def manifests() -> list[bytes]:
    written = {"sha256": "0" * 64, "bytes": 7}
    return as_json(
        {
            "format": 1,
            "family": "Wan2.1 text-to-video",
            "dtype": "bfloat16",
            "parts": ["backbone", "vae", "text_encoder", "tokenizer"],
            "backbone": {"dim": 64, "num_heads": 2, "num_layers": 2, "eps": 1e-6},
            "made_from": {"folder": "Wan2.1 (original layout)"},
            "files": {"backbone.safetensors": written, "vae/x.safetensors": written},
        }
    )


def read_manifest(path: Path) -> object:
    found = manifest.read_manifest(path.parent)
    return found.origin, found.changed(path.parent, contents=True)


def read_index(path: Path) -> object:
    (path.parent / "model-1.safetensors").touch()
    return shards.shard_files(path.parent, "model")


def read_tokens(path: Path) -> object:
    return read_tokenizer(path.parent, 100)("a red star")


@cache
def tokenizers() -> tuple[bytes, ...]:
    from tests.wan_folder import write_tokenizer

    folder = Path(tempfile.mkdtemp())
    whole = (write_tokenizer(folder, "diffusers") / "tokenizer.json").read_bytes()
    shutil.rmtree(folder)
    small = json.loads(whole)
    small["model"]["vocab"] = small["model"]["vocab"][:8]
    return whole, json.dumps(small).encode()


def pack_pocket(config: bytes) -> bytes:
    """A pocket model file without weights."""
    text = config.decode("utf-8", "replace")
    header = {"__metadata__": {"kind": KIND, "config": text}}
    return pack_header(json.dumps(header).encode(), 0)


def pockets() -> list[bytes]:
    return [files.read_metadata(POCKET_PATH)["config"].encode()]


# recipes


def recipes() -> list[bytes]:
    return [path.read_bytes() for path in sorted(RECIPES.glob("*.toml"))]


def read_recipe(path: Path) -> object:
    """The last line is a value for `--set`, too."""
    text = path.read_text("utf-8", "replace")
    last = text.rstrip().rpartition("\n")[2]
    with suppress(AfstreamError):
        load_recipe("pocket", [f"student.{last}"])
    return load_recipe(str(path))


# prompts


def read_timeline(path: Path) -> object:
    text = decode(path.read_bytes(), "t.txt")
    reader = LiveReader(CLOCK)
    for line in text.split("\n"):
        with suppress(AfstreamError):
            reader.read(line, 7.5)
    timeline = Timeline.parse(text)
    plan = timeline.plan(CLOCK)
    # what is printed is read back
    if Timeline.parse(str(timeline)) != timeline:
        raise FaultyError("a timeline is printed as another one")
    return plan


def read_lines(path: Path) -> object:
    options = ImportOptions(clock=CLOCK, switch_frames=(40, 80))
    return parse_jsonl(decode(path.read_bytes(), "p.jsonl"), "p.jsonl", options)


TIMELINES = (
    "@seed 42\n@duration 1:00\n@let fox = a red fox\n@suffix 35 mm film\n0:00 {fox} trots.\n"
    "0:10 blend=1.5s {fox} stops.\n0:35 cut seed=7 A lighthouse,\n    waves.\n"
    '[+10s] note="Dawn" Clears {{x}}.\n',
    "a\nb\nc\n",
    "0:00 x\n[40l] y\n[13c] z\n[+160f] | cut w\n",
    "@live\n0:00 a\n[3c] blend=9s b\n[4c] c\n",
)
CUE_WORDS = (
    *("0:00 ", "1:02:03.5 ", "[12.5s] ", "[+8s] ", "[999999999s] ", "[+3c] ", "cut ", "switch "),
    *(
        "blend=",
        "seed=",
        'note="',
        "|",
        "@let a = {a}",
        "@suffix ",
        "@duration ",
        "@seed ",
        "@live",
    ),
    *("{fox}", "{{", "#", "\u2028", "\u3000", "\U0010ffff", "e\u0301", "\u00b2"),
)
LINES = (
    '{"prompts": ["A fox.", "B."]}\n',
    '{"prompt": "x", "seed": 7}\n{"prompts_list": ["a"]}\n',
)

PARSERS: dict[str, Parser] = {
    "safetensors": Parser(
        "a.safetensors",
        read_any_weights,
        headers,
        (b"F32", b"BF16", b"F4", b"__metadata__", b"lora_alpha", b"generator_lora", b"dtype"),
        pack_header,
    ),
    "pt": Parser(
        "a.pt",
        read_any_weights,
        pickles,
        # opcodes, and what torch lets a pickle call
        (
            *(b"]", b"}", b")", b"(", b"R", b"b", b"s", b"u", b"t", b"q\0", b"h\0", b"K\1", b"N"),
            *(b"Q", b"\x8f", b"\x90", b"cos\nsystem\n", b"ctorch\nSize\n"),
            *(b"cbuiltins\nbytearray\n", b"c_codecs\nencode\n"),
            b"ctorch._utils\n_rebuild_sparse_tensor\n",
        ),
        pack_pickle,
    ),
    "gguf": Parser(
        "a.gguf",
        read_any_weights,
        gguf_files,
        (
            *(b"\0" * 8, b"\xff" * 8, b"\1\0\0\0", b"\x08\0\0\0", b"\x09\0\0\0", b"\x0c\0\0\0"),
            *(b"general.alignment", b"comfy.gguf.orig_shape.", b"t5", b"llama", b"lora_A"),
            *((2**60).to_bytes(8, "little"), (2**31).to_bytes(4, "little")),
        ),
    ),
    "config": Parser("config.json", read_config, partial(as_json, ORIGINAL, DIFFUSERS)),
    "text_encoder": Parser(
        "config.json", lambda path: files.read_settings(path, TextEncoderFile), texts
    ),
    "vae": Parser("config.json", lambda path: files.read_settings(path, VaeFile), vaes),
    "index": Parser(
        "model.safetensors.index.json",
        read_index,
        partial(
            as_json,
            {"metadata": {"total_size": 7}, "weight_map": {"a": "model-1.safetensors"}},
        ),
    ),
    "manifest": Parser("afstream.json", read_manifest, manifests),
    "tokenizer": Parser(
        "tokenizer.json",
        read_tokens,
        lambda: list(tokenizers()),
        (b"Replace", b"Sequence", b"Regex", b"Precompiled", b"Unigram", b"BPE", b"unk_id"),
    ),
    "pocket": Parser("a.safetensors", read_sizes, pockets, pack=pack_pocket),
    "recipe": Parser(
        "a.toml", read_recipe, recipes, (b"[student]", b"lr", b"= 1e400", b"[[", b"'''")
    ),
    "timeline": Parser(
        "t.txt",
        read_timeline,
        lambda: [one.encode() for one in TIMELINES],
        tuple(word.encode() for word in CUE_WORDS),
    ),
    "jsonl": Parser(
        "p.jsonl",
        read_lines,
        lambda: [one.encode() for one in LINES],
        (b'"prompts"', b'"prompt"', b'"seed"', b'"prompts_list"'),
    ),
}
