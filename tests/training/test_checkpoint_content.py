"""What a checkpoint holds is what was written, finite, and never code."""

import codecs
import functools
import json
import os
import pickle
import resource
import stat
from typing import Any

import pytest
import torch

from afstream.errors import CheckpointError, OutputError, TrainingError
from afstream.training.trainer import manifest as manifests
from afstream.training.trainer.checkpoints import CheckpointStore

NAN = float("nan")
SHELL = vars(os)["system"]


def state(value) -> dict[str, Any]:
    weights = {"w": torch.full((100,), float(value)), "step": torch.tensor(float(value))}
    return {"step": int(value), "seconds": 1 / 3, "values": {}, "student": weights, "n": 7}


@pytest.fixture
def store(tmp_path):
    """Three checkpoints."""
    made = CheckpointStore(tmp_path / "short")
    for step in (1, 2, 3):
        made.save(step, state(step))
    return made


def newest(store):
    return store.found()[0]


def loaded(store):
    into = state(0)
    found, told = store.load(into)
    assert found is None or found["student"]["w"] is into["student"]["w"]
    return (found and (found["step"], found["student"]["w"].unique().tolist())), told


def reseal(folder, change=lambda content: None):
    """The checksums of a folder as they would be, had it been written like this."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.unlink()
    content["files"] = manifests.written(folder, 0)
    change(content)
    path.write_text(json.dumps({"sha256": manifests._sum(content), **content}))


def test_a_bit_that_turned_anywhere_is_found(store):
    folder = newest(store)
    files = sorted(path.name for path in folder.iterdir())
    assert files == [".metadata", "__0_0.distcp", "manifest.json"]
    for name in files:
        whole = (folder / name).read_bytes()
        for at in range(0, len(whole), max(len(whole) // 40, 1)):
            turned = bytearray(whole)
            turned[at] ^= 1 << at % 8
            (folder / name).write_bytes(turned)
            found, told = loaded(store)
            assert found == (2, [2.0]), (name, at)
            assert len(told) == 1
            assert told[0].startswith(f"checkpoint {folder} is torn: ")
            assert told[0].endswith("; the one before is used")
        (folder / name).write_bytes(whole)
    assert loaded(store) == ((3, [3.0]), [])


def test_a_cut_file_is_noticed_before_its_content_is_read(store):
    path = newest(store) / "__0_0.distcp"
    os.truncate(path, path.stat().st_size - 1)
    assert store.last_step == 2


def test_files_have_ordinary_permissions(store):
    before = os.umask(0)
    os.umask(before)
    for path in newest(store).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~before, path.name


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("spoil", ["student", "moments"])
def test_a_state_that_is_not_finite_is_never_saved(store, value, spoil):
    lost: dict[str, Any] = {**state(4), "moments": {"w": {"exp_avg": torch.zeros(5)}}}
    (lost["student"]["w"] if spoil == "student" else lost["moments"]["w"]["exp_avg"])[-1] = value
    before = sorted(store.folder.iterdir())
    with pytest.raises(TrainingError) as caught:
        store.save(4, lost)
    name = {"student": "student.w", "moments": "moments.w.exp_avg"}[spoil]
    assert str(caught.value) == (
        f"step 4 is not saved: {name} holds values that are not finite; lower the learning rates,"
        " and go on from step 3, the last saved, with --resume --accept-changes"
    )
    assert sorted(store.folder.iterdir()) == before
    assert loaded(store) == ((3, [3.0]), [])


def test_the_first_checkpoint_of_all_has_none_to_go_back_to(tmp_path):
    with pytest.raises(TrainingError, match="begin the stage again with --resume"):
        CheckpointStore(tmp_path).save(1, spoilt(1))
    assert list(tmp_path.iterdir()) == []


def spoilt(step):
    made = state(step)
    made["student"]["w"][0] = NAN
    return made


def save_spoilt(store, step, monkeypatch):
    """A checkpoint as an earlier version would have written it."""
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "_lost", lambda *_: "")
        store.save(step, spoilt(step))


def test_a_checkpoint_that_is_not_finite_is_passed_over(store, monkeypatch):
    save_spoilt(store, 4, monkeypatch)
    found, told = loaded(store)
    assert found == (3, [3.0])
    assert "student.w holds values that are not finite; the one before is used" in told[0]


def test_where_none_is_finite_the_run_does_not_begin_with_one(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    save_spoilt(store, 1, monkeypatch)
    with pytest.raises(CheckpointError, match=r"no checkpoint that can be used .* remove this"):
        loaded(store)


class Call:
    """A pickle that calls something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def gadgets(mark):
    shell = f"touch {mark}"
    yield "system", Call(SHELL, shell)
    yield "eval", Call(eval, f"open({str(mark)!r}, 'w')")
    yield "exec", Call(exec, f"open({str(mark)!r}, 'w')")
    yield "partial", Call(functools.partial(SHELL, shell))
    yield "nested", {"state_dict_metadata": [Call(SHELL, shell)]}
    yield "torch.save", Call(torch.save, [1], str(mark))
    yield "codecs", Call(SHELL, Call(codecs.decode, codecs.encode(shell, "rot13"), "rot13"))
    yield "opened", Call(open, str(mark), "w")


NAMES = [name for name, _ in gadgets("")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
def test_no_code_runs_from_a_checkpoint(store, tmp_path, name, file):
    mark = tmp_path / "ran"
    folder = newest(store)
    for protocol in (2, 4):
        (folder / file).write_bytes(pickle.dumps(dict(gadgets(mark))[name], protocol))
        # whoever plants a file plants its checksum, too
        reseal(folder)
        found, told = loaded(store)
        assert not mark.exists()
        assert found in ((3, [3.0]), (2, [2.0]))
        assert len(told) == (found[0] == 2)


def grown(content):
    content["tensors"]["student.w"]["parts"][0]["bytes"] = 2**62


def elsewhere(content):
    content["tensors"]["student.w"]["parts"][0]["file"] = "../step-000002/__0_0.distcp"


def outside(content):
    content["files"]["../../secret"] = content["files"][".metadata"]


def unlisted(content):
    del content["files"]["__0_0.distcp"]


def overlapping(content):
    part = content["tensors"]["student.w"]["parts"][0]
    content["tensors"]["student.w"]["parts"] = [part, part]


FAULTS = {
    "no plain": lambda content: content.pop("plain"),
    "plain is a list": lambda content: content.update(plain=[]),
    "files is a list": lambda content: content.update(files=[]),
    "a file is a number": lambda content: content["files"].update({".metadata": 5}),
    "no tensors": lambda content: content.pop("tensors"),
    "a tensor is null": lambda content: content["tensors"].update({"student.w": None}),
    "other keys": lambda content: content.update(more=1),
    "bytes beyond the file": grown,
    "another folder": elsewhere,
    "a file outside": outside,
    "a file without checksum": unlisted,
    "a part twice": overlapping,
}


@pytest.mark.parametrize("change", FAULTS.values(), ids=FAULTS)
def test_a_list_of_wrong_types_is_a_torn_checkpoint(store, change):
    reseal(newest(store), change)
    found, told = loaded(store)
    assert found == (2, [2.0])
    assert "is torn" in told[0]
    assert "\n" not in told[0]
    assert store.checked_step == 2 or change is grown


@pytest.mark.parametrize("text", ["", "[]", "{", "5", "null", "[" * 100_000, "\x00\xff"])
def test_a_list_that_is_no_list_is_a_torn_checkpoint(store, text):
    (newest(store) / "manifest.json").write_bytes(text.encode("latin-1"))
    assert loaded(store)[0] == (2, [2.0])
    assert store.last_step == 2


def test_checkpoints_of_an_earlier_version_are_not_begun_again(store, tmp_path):
    folder = newest(store)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"files": sizes, "plain": {}}))
    with pytest.raises(CheckpointError, match="step-000003 is of an earlier afstream"):
        loaded(store)
    (tmp_path / "teacher.checkpoint").write_text("cut")
    with pytest.raises(CheckpointError, match=r"teacher\.checkpoint is of an earlier afstream"):
        CheckpointStore(tmp_path / "teacher").load(state(0))


def test_torn_checkpoints_do_not_push_out_new_ones(store):
    for folder in store.found()[:2]:
        (folder / ".metadata").unlink()
    assert loaded(store)[0] == (1, [1.0])
    store.save(2, state(2))
    assert [folder.name for folder in store.found()] == ["step-000002", "step-000001"]
    assert loaded(store) == ((2, [2.0]), [])


def test_what_has_the_name_of_a_checkpoint_and_is_none(store):
    (store.folder / "step-000009").write_text("x")
    (store.folder / ("step-" + "9" * 200)).mkdir()
    assert store.last_step == 3
    assert loaded(store)[0] == (3, [3.0])


def test_lines_of_a_log_that_are_no_entries_are_left_out(store):
    store.log.path.write_bytes(
        b'{"step": 1}\n{"st\n\xff\n[]\n5\n{"step": 9}\n{"step": 2}\n{"step": 3'
    )
    assert store.log.cut(3) == 4
    assert store.log.path.read_text() == '{"step": 1}\n{"step": 2}\n'


def in_a_child(work):
    """What `work` says in a forked process, whose limits are its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, work().encode())
        except BaseException as error:  # noqa: BLE001
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


# of the weights, of torch's list after them, of our own list, of none
@pytest.mark.parametrize("room", [100, 2_000, 4_000, 1])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(store, room):
    before = sorted(path for path in store.folder.rglob("*"))
    names = {f"weight-{number}": torch.zeros(10) for number in range(40)}

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            store.save(4, {**state(4), "more": names})
        except OutputError as error:
            return str(error)
        return "saved"

    said = in_a_child(work)
    assert "cannot be written (file too large)" in said or "cannot write" in said
    assert "\n" not in said
    assert sorted(path for path in store.folder.rglob("*")) == before
    assert loaded(store) == ((3, [3.0]), [])


def test_ctrl_c_while_saving_is_an_interruption(store, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save(4, state(4))
    monkeypatch.undo()
    store.save(4, state(4))
    assert not list(store.folder.glob("*.partial"))
