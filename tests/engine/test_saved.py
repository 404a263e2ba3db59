"""Saved states: streams go on from them, and are taken back to them, bit for bit."""

import itertools
import json
import random
import shutil
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.crash_points import crash_points
from tests.engine.toy import toy_model
from tests.tiny_vae import tiny_weights, write_tiny
from tests.wan_transformer import CONFIG

from afstream.checkpoints.safetensors import map_tensors, read_header, write_checked
from afstream.config import WAN_BACKBONES, SamplerConfig
from afstream.engine.saved.files import LAYOUT, read_layout
from afstream.errors import CheckpointError, ConfigError, OutputError, PromptError
from afstream.families.opening import open_model
from afstream.kvcache.memories import MEMORIES
from afstream.spec import ModelSpec, StreamConfig
from afstream.stream import Stream
from afstream.timeline import Timeline

STAR, TURN, HEART = "A red star drifts left.", "It turns right.", "A blue heart spins at night."
NUM_CHUNKS = 11
# a switch with another seed, a blend, a cut with another seed, a blend up to the next switch
TIMELINE = f"""
@seed 3
@duration [{NUM_CHUNKS}c]
0:00            {STAR}
[2c] seed=5     {TURN}
[4c] blend=1.5s {HEART}
[7c] cut seed=8 {HEART}
[8c] blend=1.5s {STAR}
[10c]           {TURN}
"""
PLAIN = f"@duration [5c]\n0:00 {STAR}\n[1c] {TURN}\n[2c] blend=1.5s {HEART}\n[4c] cut {STAR}"


@pytest.fixture(scope="module")
def model():
    return toy_model()


def make_stream(model, **settings):
    return Stream(model, StreamConfig(**settings))


def play(stream, timeline=TIMELINE, start=0):
    return stream.play(Timeline.parse(timeline), from_chunk=start)


def same(chunks, others):
    return len(chunks) == len(others) and all(
        np.array_equal(a.frames, b.frames)
        and torch.equal(a.latents, b.latents)
        and (a.index, a.segment, a.prompt, a.start_s) == (b.index, b.segment, b.prompt, b.start_s)
        for a, b in zip(chunks, others, strict=True)
    )


def saved_everywhere(stream, folder, timeline=TIMELINE):
    """Play to the end, and save before each chunk; returns the chunks."""
    chunks = []
    stream.save(folder / "0")
    for chunk in play(stream, timeline):
        chunks.append(chunk)
        saved = stream.save(folder / str(len(chunks)))
        assert saved == (len(chunks), (folder / str(len(chunks))).stat().st_size)
    return chunks


def goes_on_everywhere(model, folder, chunks, timeline=TIMELINE, **settings):
    """Whether fresh streams go on from each of the states as the first one did.

    They make two chunks each: what a state lacks is missed by the next chunk that needs it, and
    that chunk is made from a state that lacks it, too.
    """
    for start in range(len(chunks) + 1):
        stream = make_stream(model, **settings)
        stream.load(folder / str(start))
        # it says so itself, too
        again = folder / "again"
        stream.save(again)
        assert again.read_bytes() == (folder / str(start)).read_bytes()
        found = list(itertools.islice(play(stream, timeline, start), 2))
        expected = chunks[start : start + 2]
        assert same(found, expected), f"other frames after chunk {start}"
        applied = [r.prompt for chunk in found for r in chunk.receipts]
        assert applied == [r.prompt for chunk in expected for r in chunk.receipts]


@pytest.mark.parametrize(
    ("memory", "ahead"), [*((name, False) for name in MEMORIES), ("anchor", True)]
)
def test_a_loaded_stream_goes_on_bit_for_bit(model, tmp_path, memory, ahead):
    chunks = saved_everywhere(make_stream(model, memory=memory, ahead=ahead), tmp_path)
    assert same(chunks, list(play(make_stream(model, memory=memory))))
    # with another seed, which must not matter
    goes_on_everywhere(model, tmp_path, chunks, memory=memory, seed=77, ahead=ahead)


def test_the_pocket_model_goes_on_bit_for_bit(tmp_path):
    model = open_model(ModelSpec())
    chunks = saved_everywhere(make_stream(model), tmp_path, PLAIN)
    goes_on_everywhere(model, tmp_path, chunks, PLAIN)


@pytest.mark.parametrize(("dtype", "offload"), [("bfloat16", 1), ("float32", 2)])
def test_wans_sizes_go_on_bit_for_bit(tmp_path, monkeypatch, dtype, offload):
    monkeypatch.setitem(WAN_BACKBONES, "wan-tiny", CONFIG)
    spec = ModelSpec(name="random:wan-tiny", device="cpu", dtype=dtype, offload=offload)
    model = open_model(spec)
    chunks = saved_everywhere(make_stream(model, size=(32, 48)), tmp_path, PLAIN)
    # where layers lie changes nothing
    other = open_model(replace(spec, offload=0))
    goes_on_everywhere(other, tmp_path, chunks, PLAIN, size=(32, 48))


@pytest.mark.parametrize("vae", ["own", "tiny"])
def test_decoders_of_wan_folders_go_on_bit_for_bit(tmp_path, models, vae):
    path = write_tiny(tmp_path / "taew2_1.safetensors", tiny_weights())
    folder, short = tmp_path / "states", f"@duration [3c]\n0:00 {STAR}\n[1c] {TURN}"
    folder.mkdir()
    spec = ModelSpec(
        name=str(models["original"]), vae=str(path) if vae == "tiny" else None, device="cpu"
    )
    model = open_model(spec)
    chunks = saved_everywhere(make_stream(model, size=(32, 32)), folder, short)
    goes_on_everywhere(model, folder, chunks, short, size=(32, 32))


def test_it_is_a_safetensors_file_with_what_is_held(model, tmp_path):
    stream = make_stream(model)
    stream.cue(STAR)
    next(stream.chunks())
    stream.save(tmp_path / "state")
    tensors = load_file(tmp_path / "state")
    cache = stream.state.rollout.cache
    slot = cache.slot_frames.index(0)
    held = {name: value for name, value in tensors.items() if name.startswith("keys")}
    # neither free slots nor that of the current chunk
    assert held.keys() == {f"keys.{slot}.{layer}" for layer in range(2)}
    assert torch.equal(held[f"keys.{slot}.1"], cache.pool.keys[1, :, slot])
    # views: saving takes no second copy of the memory
    owner = cache.pool.keys.untyped_storage().data_ptr()
    assert cache.held()[f"keys.{slot}.1"].untyped_storage().data_ptr() == owner


@pytest.mark.parametrize("memory", ["rolling", "anchor"])
def test_the_size_of_a_full_memory_is_told_before(model, tmp_path, memory):
    stream = make_stream(model, memory=memory)
    stream.cue(STAR)
    chunks = stream.chunks()
    next(chunks)
    told = stream.state_bytes
    for prompt in (TURN, HEART, TURN):
        stream.cue(prompt)
        list(itertools.islice(chunks, 4))
    path = tmp_path / "state"
    stream.save(path)
    size = sum(value.nbytes for value in load_file(path).values())
    assert size == told == stream.state_bytes


def test_a_state_before_the_first_prompt(model, tmp_path):
    make_stream(model, seed=4).save(tmp_path / "state")
    stream = make_stream(model)
    stream.load(tmp_path / "state")
    stream.cue(STAR)
    other = make_stream(model, seed=4)
    other.cue(STAR)
    assert same([next(stream.chunks())], [next(other.chunks())])


def test_cues_that_wait_are_not_saved_and_stay(model, tmp_path):
    stream = make_stream(model)
    stream.cue(STAR)
    next(stream.chunks())
    stream.save(tmp_path / "state")
    receipt = stream.cue(TURN)
    stream.save(tmp_path / "same")
    assert (tmp_path / "same").read_bytes() == (tmp_path / "state").read_bytes()
    stream.load(tmp_path / "state")
    assert next(stream.chunks()).receipts == (receipt,)


def test_a_live_cue_that_was_submitted_is_saved_with_its_chunk(model, tmp_path):
    stream = make_stream(model, ahead=True)
    stream.cue(STAR)
    list(itertools.islice(stream.chunks(), 2))
    stream.cue(HEART, seed=6, note="a remark")
    next(stream.chunks())
    stream.save(tmp_path / "state")
    other = make_stream(model)
    other.load(tmp_path / "state")
    assert (other.position, other.next_chunk) == (3, 4)
    chunk, original = next(other.chunks()), next(stream.chunks())
    assert same([chunk], [original])
    assert chunk.receipts[0].cue == original.receipts[0].cue
    assert chunk.receipts[0].switch_ms is not None
    assert chunk.timing.total_ms >= 0


# going back


@pytest.mark.parametrize("ahead", [False, True])
def test_a_stream_is_rewound_to_any_chunk(model, tmp_path, ahead):
    stream = make_stream(model, ahead=ahead)
    chunks = []
    for chunk in play(stream):
        chunks.append(chunk)
        if chunk.index in (1, 4, 5, 8):
            stream.save(tmp_path / str(chunk.index))
    for start in (11, 10, 9, 6, 5, 3, 1, 0):
        stream.rewind(start)
        assert (stream.position, stream.next_chunk) == (start, start)
        fresh = make_stream(model)
        list(itertools.islice(play(fresh), start))
        assert stream.state.history == fresh.state.history
        assert (stream.state.seed, stream.state.segment) == (fresh.state.seed, fresh.state.segment)
        assert same(list(play(stream.fork(), start=start)), chunks[start:])


def submitted(stream, monkeypatch):
    """Indices of the chunks that a stream computes from now on."""
    found, real = [], stream._pipeline.submit

    def submit(changes):
        found.append(stream.next_chunk)
        return real(changes)

    monkeypatch.setattr(stream._pipeline, "submit", submit)
    return found


def test_the_nearest_state_that_is_whole_is_taken(model, tmp_path, monkeypatch):
    stream = make_stream(model)
    for chunk in play(stream):
        if chunk.index < 6:
            stream.save(tmp_path / str(chunk.index + 1))
    computed = submitted(stream, monkeypatch)
    stream.rewind(6)
    assert computed == []
    (tmp_path / "5").unlink()
    torn = bytearray((tmp_path / "4").read_bytes())
    torn[-100] ^= 1
    (tmp_path / "4").write_bytes(torn)
    stream.rewind(5)
    assert computed == [3, 4]


def test_a_state_of_another_branch_is_not_taken(model, tmp_path):
    """A path that was written again, or a fork's, may hold what this stream never was."""
    stream = make_stream(model)
    stream.cue(STAR)
    list(itertools.islice(stream.chunks(), 2))
    branch = stream.fork()
    branch.cue(HEART)
    list(itertools.islice(branch.chunks(), 1))
    stream.save(tmp_path / "state")
    branch.save(tmp_path / "state")
    whole = list(itertools.islice(stream.chunks(), 3))
    stream.rewind(3)
    assert same([next(stream.chunks())], whole[1:2])
    with pytest.raises(ConfigError, match="has yielded 4 chunks"):
        stream.rewind(5)


def test_what_lies_before_a_cut_is_not_computed_again(model, monkeypatch):
    stream = make_stream(model)
    chunks = list(play(stream))
    computed = submitted(stream, monkeypatch)
    stream.rewind(9)
    assert computed == [7, 8]
    assert same(list(play(stream, start=9)), chunks[9:])


def test_other_prompts_branch_off(model):
    stream = make_stream(model)
    list(play(stream))
    stream.rewind(6)
    receipt = stream.cue(STAR)
    branch = list(itertools.islice(stream.chunks(), 2))
    text = TIMELINE.replace(f"[7c] cut seed=8 {HEART}", f"[6c] {STAR}")
    assert same(branch, list(play(make_stream(model), text))[6:8])
    assert [change.chunk for change in stream.state.history] == [0, 2, 4, 6]
    assert receipt.chunk == 6


def test_a_fork_has_the_history_and_the_states(model, tmp_path, monkeypatch):
    stream = make_stream(model)
    chunks = play(stream)
    list(itertools.islice(chunks, 3))
    stream.save(tmp_path / "state")
    fork = stream.fork()
    assert fork.state.history == stream.state.history
    list(chunks)
    assert len(fork.state.history) < len(stream.state.history)
    list(itertools.islice(fork.chunks(), 2))
    computed = submitted(fork, monkeypatch)
    fork.rewind(4)
    assert computed == [3]


def test_cues_that_wait_survive_going_back(model):
    stream = make_stream(model)
    list(itertools.islice(play(stream), 5))
    receipt = stream.cue(HEART)
    stream.rewind(3)
    assert receipt.chunk is None
    assert next(stream.chunks()).receipts == (receipt,)


@pytest.mark.parametrize("chunk", [-1, 6, 1.0, True, None])
def test_a_chunk_that_was_not_reached_is_refused(model, chunk):
    stream = make_stream(model)
    list(itertools.islice(play(stream), 5))
    with pytest.raises(ConfigError, match=r"it has yielded 5 chunks: give a whole number, 0 to 5"):
        stream.rewind(chunk)
    assert stream.position == 5


def test_an_iterator_that_is_suspended_is_closed_first(model, tmp_path):
    stream = make_stream(model)
    chunks = play(stream)
    next(chunks)
    stream.save(tmp_path / "state")
    for change in (lambda: stream.rewind(0), lambda: stream.load(tmp_path / "state")):
        with pytest.raises(ConfigError, match=r"another iterator .* close\(\) it first"):
            change()
    chunks.close()
    stream.load(tmp_path / "state")
    stream.rewind(0)


def test_prompts_that_are_known_no_more_change_nothing(model, monkeypatch):
    stream = make_stream(model)
    list(itertools.islice(play(stream), 5))

    def encode(_prompts):
        raise PromptError("the text encoder was dropped")

    before = stream.state
    monkeypatch.setattr(model.text, "encode", encode)
    with pytest.raises(PromptError, match="was dropped"):
        stream.rewind(3)
    assert stream.state is before
    assert before.position == 5


def test_a_state_is_saved_between_chunks_from_any_thread(model, tmp_path):
    """A thread that saves while a chunk is computed waits until its state is whole."""
    stream = make_stream(model)
    stream.cue(STAR)
    list(itertools.islice(stream.chunks(), 2))
    saver = threading.Thread(target=stream.save, args=(tmp_path / "state",))
    rollout = stream._pipeline.rollout
    real = type(rollout).commit

    def commit(self, state, clean):
        saver.start()
        saver.join(0.2)
        assert saver.is_alive()
        real(self, state, clean)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(rollout), "commit", commit)
        chunks = [next(stream.chunks())]
    saver.join()
    chunks.append(next(stream.chunks()))
    other = make_stream(model)
    other.load(tmp_path / "state")
    # it was saved before or after the chunk was handed out
    first = other.position - 2
    assert same(list(itertools.islice(other.chunks(), 2 - first)), chunks[first:])


@pytest.mark.parametrize(("stands", "start"), [(2, 3), (2, 1), (6, 6), (2, -1)])
def test_a_timeline_is_played_from_where_the_stream_stands_only(model, stands, start):
    stream = make_stream(model)
    stream.cue(STAR)
    list(itertools.islice(stream.chunks(), stands))
    says = f"from chunk {start}: it has 5 chunks, and the stream stands at chunk {stands};"
    with pytest.raises(ConfigError, match=says):
        play(stream, PLAIN, start)


# files


@pytest.fixture(scope="module")
def state(model, tmp_path_factory):
    """A state in the middle of a blend, with a chunk pending."""
    path = tmp_path_factory.mktemp("saved") / "state"
    stream = make_stream(model, ahead=True)
    list(itertools.islice(play(stream), 4))
    stream.save(path)
    assert stream.state.blend
    assert stream.state.pending
    return path


def refuses(model, path, says, **settings):
    """Whether a stream says so in a sentence, and has the state that it had."""
    stream = make_stream(model, **settings)
    before = stream.state
    with pytest.raises(CheckpointError, match=says) as raised:
        stream.load(path)
    assert "\n" not in str(raised.value)
    assert stream.state is before


@pytest.mark.parametrize("name", ["torn", "decoder"])
def test_a_stream_goes_on_when_it_could_not_load(model, state, tmp_path, name):
    path = tmp_path / name
    if name == "torn":
        path.write_bytes(state.read_bytes()[:-1])
    else:
        rewritten(state, path, HOSTILE[name][0])
    stream, other = make_stream(model), make_stream(model)
    chunks, others = play(stream), play(other)
    assert same([next(chunks)], [next(others)])
    chunks.close()
    with pytest.raises(CheckpointError):
        stream.load(path)
    assert same(list(play(stream, start=1)), list(others))


def test_any_bit_that_is_flipped_is_noticed(model, state, tmp_path):
    whole, random_bits = state.read_bytes(), random.Random(1)
    header = int.from_bytes(whole[:8], "little")
    places = [*range(8), *(random_bits.randrange(8, 8 + header) for _ in range(20))]
    places += [random_bits.randrange(len(whole)) for _ in range(20)]
    places += [len(whole) - 1, len(whole) - 33]
    stream = make_stream(model)
    before = stream.state
    for place in places:
        torn = bytearray(whole)
        torn[place] ^= 1 << random_bits.randrange(8)
        (tmp_path / "torn").write_bytes(torn)
        with pytest.raises(CheckpointError, match=r"^the saved state .*"):
            stream.load(tmp_path / "torn")
        assert stream.state is before


def test_a_file_cut_anywhere_is_noticed(model, state, tmp_path):
    whole, random_cuts = state.read_bytes(), random.Random(2)
    cuts = [0, 1, 7, 8, 100, *(random_cuts.randrange(len(whole)) for _ in range(15))]
    stream = make_stream(model)
    for length in [*cuts, len(whole) - 32, len(whole) - 1]:
        (tmp_path / "torn").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut short|no safetensors file"):
            stream.load(tmp_path / "torn")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"memory": "rolling"}, "its memory name is anchor, here it is rolling"),
        ({"junction": "gap"}, "its memory junction is hold, here it is gap"),
        ({"size": (48, 32)}, "its size is 32x16, here it is 48x32"),
        ({"backend": "reference"}, "its backend is sdpa, here it is reference"),
    ],
    ids=str,
)
def test_a_stream_with_other_settings_is_refused(model, state, other, says):
    refuses(model, state, says, **other)


def other_weights():
    model = toy_model()
    backbone: Any = model.backbone
    backbone.blocks[1].cross_attn.k.weight.add_(0.1)
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: replace(toy_model(), name="other"), "its model is toy, here it is other"),
        (lambda: replace(toy_model(), details={"lora": "x"}), "model's origin"),
        (lambda: replace(toy_model(), sampler=SamplerConfig(steps=(900, 500))), "sampler steps"),
        (other_weights, "of a model with other weights"),
    ],
    ids=["name", "details", "sampler", "weights"],
)
def test_another_model_is_refused(state, make, says):
    refuses(make(), state, says)


def test_where_a_model_lies_does_not_matter(model, state):
    moved = replace(model, details={"path": "/elsewhere", "text": "cpu"})
    make_stream(moved).load(state)


def rewritten(source, path, change):
    """The file with other content, and the checksum of that."""
    tensors = dict(map_tensors(source))
    metadata = dict(read_header(source).metadata)
    metadata.pop("sha256")
    layout = json.loads(metadata[LAYOUT])
    change(layout, tensors, metadata)
    metadata.setdefault(LAYOUT, json.dumps(layout))
    if metadata[LAYOUT] == read_header(source).metadata[LAYOUT]:
        metadata[LAYOUT] = json.dumps(layout)
    with path.open("wb") as file:
        write_checked(file, tensors, metadata)


def decoder_of(layout):
    return layout["values"]["decoder"]


def first_tensor(layout):
    return decoder_of(layout)["parts"][0]["parts"][0]


def any_keys(tensors):
    return next(name for name in tensors if name.startswith("keys."))


def set_to(table, name, value):
    table[name] = value


HOSTILE = {
    "version": (lambda _to, _t, m: set_to(m, "afstream_state_version", "2"), "reads 1;"),
    "other file": (
        lambda _to, _t, m: m.pop("afstream_state_version"),
        "no saved state of a stream",
    ),
    "no JSON": (lambda _to, _t, m: set_to(m, LAYOUT, "{"), "header is damaged"),
    "deep JSON": (lambda _to, _t, m: set_to(m, LAYOUT, "[" * 10**5), "header is damaged"),
    "missing": (lambda to, _t, _m: to.pop("seed"), "seed is missing"),
    "text": (
        lambda to, _t, _m: set_to(to, "chunk", "5"),
        "chunk is '5'; it must be a whole number",
    ),
    "negative": (lambda to, _t, _m: set_to(to, "chunk", -5), "chunk is -5"),
    "cue": (lambda to, _t, _m: set_to(to["history"][0]["cue"], "prompt", ""), "cue has no prompt"),
    "history": (lambda to, _t, _m: set_to(to["history"][0], "chunk", 4), "its history cannot"),
    "blend": (lambda to, _t, _m: set_to(to["blend"], "done", 2), "its blend cannot"),
    "slots": (lambda to, _t, _m: to["scene"]["slot_frames"].pop(), "number of slots cannot"),
    "frames": (lambda to, _t, _m: set_to(to["scene"]["slot_frames"], 1, 10**9), "its slots cannot"),
    "unseen": (lambda to, _t, _m: set_to(to["scene"]["slot_frames"], 1, -1), "its memory cannot"),
    "anchor": (lambda to, _t, _m: to["scene"]["anchors"].pop("floor"), "list of anchors cannot"),
    "late anchor": (
        lambda to, _t, _m: set_to(to["scene"]["anchors"], "sink", 10**6),
        "anchor sink",
    ),
    "no anchor": (lambda to, _t, _m: set_to(to["scene"]["anchors"], "sink", None), "anchor sink"),
    "frame": (lambda to, _t, _m: set_to(to["scene"], "frame", 17), "place in the scene cannot"),
    "recent": (lambda to, _t, _m: to["values"]["recent"]["parts"].pop(), "recent latents cannot"),
    "embeds": (lambda to, _t, _m: set_to(to["values"], "embeds", 3), "its prompt cannot"),
    "pending": (lambda to, _t, _m: to["pending"].clear(), "pending chunks cannot"),
    "no keys": (lambda _to, t, _m: t.pop(any_keys(t)), "keys and values cannot"),
    "other keys": (
        lambda _to, t, _m: set_to(t, any_keys(t), t[any_keys(t)][:, :1]),
        "keys and values cannot",
    ),
    "other dtype": (
        lambda _to, t, _m: set_to(t, any_keys(t), t[any_keys(t)].double()),
        "keys and values cannot",
    ),
    "class": (lambda to, _t, _m: set_to(decoder_of(to), "class", "Path"), "no nested values"),
    "parts": (lambda to, _t, _m: decoder_of(to)["parts"].append(1), "no nested values"),
    "strides": (lambda to, _t, _m: set_to(first_tensor(to), "strides", [0] * 5), "strides say"),
    "huge": (lambda to, _t, _m: set_to(first_tensor(to), "shape", [2**48] * 5), "strides say"),
    "device": (lambda to, _t, _m: set_to(first_tensor(to), "device", "cuda"), "a cuda device"),
    "decoder": (lambda to, _t, _m: decoder_of(to)["parts"][0]["parts"].clear(), "decoder's state"),
    "decoder's values": (
        lambda to, _t, _m: set_to(to["values"], "decoder", to["values"]["embeds"]),
        "decoder's state",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_stream_would_write_is_refused(model, state, tmp_path, name):
    change, says = HOSTILE[name]
    rewritten(state, tmp_path / "hostile", change)
    refuses(model, tmp_path / "hostile", says)


def test_what_is_no_state_is_told(model, tmp_path):
    (tmp_path / "text").write_text("hello, this is no file of tensors")
    refuses(model, tmp_path / "text", "no safetensors file")
    refuses(model, tmp_path / "missing", "no such file or directory")
    refuses(model, tmp_path, "it is no file")


def test_a_process_killed_anywhere_leaves_a_whole_state(model, tmp_path):
    path = tmp_path / "state"
    old, new = make_stream(model), make_stream(model)
    list(itertools.islice(play(old), 2))
    list(itertools.islice(play(new), 3))
    old.save(tmp_path / "old")
    found = set()
    for _ in crash_points(
        lambda: new.save(path), before=lambda: shutil.copy(tmp_path / "old", path)
    ):
        stream = make_stream(model)
        stream.load(path)
        found.add(stream.position)
        new.save(path)
        assert read_layout(path).position == 3
    assert found == {2, 3}


def test_a_place_that_cannot_be_written_is_one_sentence(model, tmp_path):
    stream = make_stream(model)
    stream.cue(STAR)
    next(stream.chunks())
    with pytest.raises(OutputError, match=r"^cannot write the saved state .*no such file"):
        stream.save(tmp_path / "missing" / "state")
    # and it is not gone back to
    stream.rewind(0)


def test_a_closed_stream_has_no_state(model, state, tmp_path):
    stream = make_stream(model)
    stream.close()
    for use in (
        lambda: stream.save(tmp_path / "state"),
        lambda: stream.load(state),
        lambda: stream.rewind(0),
    ):
        with pytest.raises(ConfigError, match="the stream is closed"):
            use()
