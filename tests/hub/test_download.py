"""Downloads from a hub on this machine, whole, broken and stopped."""

import errno
import json
import shutil
import sys

import httpx2
import pytest
from tests.hub.fake_hub import REVISION, sha256

from afstream.errors import ConfigError, DownloadError, OutputError
from afstream.hub import client
from afstream.hub import download as room
from afstream.hub.catalogue import CATALOGUE
from afstream.hub.download import download, plan_download
from afstream.lock import hold

STUDENT = CATALOGUE["self-forcing"]
PATH = STUDENT.files[0].path
PARTS = CATALOGUE["wan-1.3b"]


@pytest.fixture
def files(hub):
    """The published files of a student, which has one."""
    return hub.add(STUDENT.repository, [PATH, "checkpoints/ode_init.pt", "README.md"])


def quiet(step, done, total):
    """Tell nothing."""


def part_of(folder, data):
    return folder / f"{PATH}.{sha256(data)[:12]}.part"


def test_all_is_told_before_anything_is_written(hub, files, tmp_path):
    plan = plan_download(STUDENT, tmp_path / "student")
    assert plan.repository.revision == REVISION
    assert plan.repository.licence == "cc-by-nc-sa-4.0"
    assert [(one.content, one.remote.path) for one in plan.files] == [("student", PATH)]
    assert plan.num_bytes == plan.missing_bytes == len(files[PATH])
    plan.check()
    assert not list(tmp_path.iterdir())
    assert [one.path for one in hub.requests] == [f"/api/models/{STUDENT.repository}"]


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"license": "apache-2.0"}, "apache-2.0"),
        (
            {"license": "other", "license_name": "krea", "license_link": "https://krea.ai/l"},
            "krea https://krea.ai/l",
        ),
        ({}, "mit"),
        (None, "mit"),
    ],
)
def test_the_licence_is_what_the_card_says_or_else_the_tag(hub, files, tmp_path, card, said):
    hub.card = card
    assert plan_download(STUDENT, tmp_path).repository.licence == said


@pytest.mark.parametrize("name", CATALOGUE)
def test_exactly_the_files_of_the_row_arrive(hub, tmp_path, name):
    model = CATALOGUE[name]
    paths = [one.path for one in model.files]
    data = hub.add(model.repository, [*paths, *(one.path for one in model.backbone), "README.md"])
    download(plan_download(model, tmp_path), quiet)
    found = {str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()}
    assert found == {*paths, f"{name}.download.json"}
    assert all((tmp_path / path).read_bytes() == data[path] for path in paths)


def test_the_revision_that_was_told_is_fetched_and_written_down(hub, files, tmp_path):
    plan = plan_download(STUDENT, tmp_path)
    download(plan, quiet)
    assert hub.fetched() == [(f"/{STUDENT.repository}/resolve/{REVISION}/{PATH}", None)]
    assert json.loads(plan.record.read_text()) == {
        "repository": STUDENT.repository,
        "revision": REVISION,
        "licence": "cc-by-nc-sa-4.0",
        "files": {PATH: {"bytes": len(files[PATH]), "digest": sha256(files[PATH])}},
    }


def test_the_backbone_comes_when_it_is_asked_for(hub, tmp_path):
    wanted = [one.path for one in PARTS.wanted(with_backbone=True)]
    hub.add(PARTS.repository, wanted)
    download(plan_download(PARTS, tmp_path, with_backbone=True), quiet)
    assert all((tmp_path / path).is_file() for path in wanted)


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, files, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download(plan_download(STUDENT, tmp_path), quiet)
    tokens = {one.path.split("/")[1]: one.token for one in hub.requests}
    assert tokens == {"api": "Bearer hf_secret", "gdhe17": "Bearer hf_secret", "cdn": None}


def test_a_cut_connection_is_taken_up_again(hub, files, tmp_path):
    hub.cut_after = [7_000]
    download(plan_download(STUDENT, tmp_path), quiet)
    assert (tmp_path / PATH).read_bytes() == files[PATH]
    assert [one.range for one in hub.requests if one.path.startswith("/cdn/")] == [
        None,
        "bytes=7000-",
    ]


def test_older_releases_do_not_take_it_up_and_we_do(hub, files, tmp_path, monkeypatch):
    """As huggingface_hub 0.30 to 1.0 do: what breaks off in the middle is raised at once."""
    plan, whole = plan_download(STUDENT, tmp_path), client.http_get
    calls = []

    def break_off(url, into, *, resume_size, **settings):
        calls.append(resume_size)
        if len(calls) < 9:
            into.write(files[PATH][resume_size : resume_size + 100])
            raise httpx2.ReadError("broken off")
        whole(url, into, resume_size=resume_size, **settings)

    monkeypatch.setattr(client, "http_get", break_off)
    download(plan, quiet)
    assert calls == [*range(0, 900, 100)]
    assert (tmp_path / PATH).read_bytes() == files[PATH]


def test_a_download_goes_on_where_the_one_before_stopped(hub, files, tmp_path):
    # more often than huggingface_hub tries again
    hub.cut_after = [7_000, *[0] * 20]
    with pytest.raises(DownloadError, match="again, which goes on"):
        download(plan_download(STUDENT, tmp_path), quiet)
    assert not (tmp_path / PATH).exists()
    assert part_of(tmp_path, files[PATH]).read_bytes() == files[PATH][:7_000]
    hub.cut_after.clear()
    hub.requests.clear()
    plan = plan_download(STUDENT, tmp_path)
    assert plan.missing_bytes == len(files[PATH]) - 7_000
    download(plan, quiet)
    assert (tmp_path / PATH).read_bytes() == files[PATH]
    assert {one.range for one in hub.requests if "/cdn/" in one.path} == {"bytes=7000-"}
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("num_bytes", [7_000, None])
def test_ctrl_c_keeps_what_is_there(hub, files, tmp_path, num_bytes):
    """In the middle of a file, and when it is whole but not checked yet."""
    num_bytes = num_bytes or len(files[PATH])

    def stop(step, done, total):
        if done >= num_bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(plan_download(STUDENT, tmp_path), stop)
    assert part_of(tmp_path, files[PATH]).read_bytes() == files[PATH][:num_bytes]
    hub.requests.clear()
    download(plan_download(STUDENT, tmp_path), quiet)
    assert (tmp_path / PATH).read_bytes() == files[PATH]
    rest = {f"bytes={num_bytes}-"} if num_bytes < len(files[PATH]) else set()
    assert {one.range for one in hub.requests if "/cdn/" in one.path} == rest


def test_a_part_of_another_file_is_not_gone_on_with(hub, files, tmp_path):
    hub.cut_after = [7_000, *[0] * 20]
    with pytest.raises(DownloadError):
        download(plan_download(STUDENT, tmp_path), quiet)
    hub.cut_after.clear()
    files[PATH] = b"a newer student" * 900
    download(plan_download(STUDENT, tmp_path), quiet)
    assert (tmp_path / PATH).read_bytes() == files[PATH]


def test_a_part_longer_than_its_file_begins_anew(hub, files, tmp_path):
    part = part_of(tmp_path, files[PATH])
    part.parent.mkdir()
    part.write_bytes(files[PATH] + b"!")
    download(plan_download(STUDENT, tmp_path), quiet)
    assert (tmp_path / PATH).read_bytes() == files[PATH]


@pytest.mark.parametrize("path", ["Wan2.1_VAE.pth", "config.json"])
def test_a_damaged_file_gets_no_name(hub, tmp_path, path):
    """A large one by its SHA-256, a small one by what git says."""
    files = hub.add(PARTS.repository, [one.path for one in PARTS.files])
    hub.serves = {path: bytes(len(files[path]))}
    with pytest.raises(DownloadError, match=f"^{path} arrived damaged"):
        download(plan_download(PARTS, tmp_path), quiet)
    assert not (tmp_path / path).exists()
    assert not list(tmp_path.rglob("*.part"))
    hub.serves = {}
    download(plan_download(PARTS, tmp_path), quiet)
    assert (tmp_path / path).read_bytes() == files[path]


def test_a_file_that_is_sent_short_is_no_whole_file(hub, files, tmp_path):
    hub.serves = {PATH: files[PATH][:-5]}
    with pytest.raises(DownloadError, match="did not arrive whole"):
        download(plan_download(STUDENT, tmp_path), quiet)
    assert not (tmp_path / PATH).exists()


def test_what_is_there_is_checked_and_not_fetched_again(hub, files, tmp_path):
    download(plan_download(STUDENT, tmp_path), quiet)
    hub.requests.clear()
    plan = plan_download(STUDENT, tmp_path)
    assert plan.missing_bytes == 0
    steps = []
    download(plan, lambda step, done, total: steps.append(step))
    assert set(steps) == {f"checking {PATH}"}
    assert not hub.fetched()


@pytest.mark.parametrize("length", [-1, 0])
def test_a_file_of_ones_own_is_never_replaced(hub, files, tmp_path, length):
    """Of another size, and of the same size with other contents."""
    mine = b"x" * (len(files[PATH]) + length)
    (tmp_path / PATH).parent.mkdir()
    (tmp_path / PATH).write_bytes(mine)
    with pytest.raises(DownloadError, match="is there, and is not the file of gdhe17/Self-Forcing"):
        download(plan_download(STUDENT, tmp_path), quiet)
    assert (tmp_path / PATH).read_bytes() == mine
    assert not hub.fetched()
    assert not plan_download(STUDENT, tmp_path).record.exists()


def test_a_link_to_the_file_will_do_and_a_dead_one_is_refused(hub, files, tmp_path):
    goal = tmp_path / "model" / PATH
    goal.parent.mkdir(parents=True)
    goal.symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(DownloadError, match="is there, and is not the file"):
        plan_download(STUDENT, tmp_path / "model").check()
    (tmp_path / "elsewhere.pt").write_bytes(files[PATH])
    download(plan_download(STUDENT, tmp_path / "model"), quiet)
    assert goal.is_symlink()
    assert not hub.fetched()


def test_two_models_in_one_folder_keep_two_records(hub, files, tmp_path):
    hub.add(PARTS.repository, [one.path for one in PARTS.files])
    for model in (STUDENT, PARTS):
        download(plan_download(model, tmp_path), quiet)
    assert sorted(path.name for path in tmp_path.glob("*.download.json")) == [
        "self-forcing.download.json",
        "wan-1.3b.download.json",
    ]


def test_two_runs_do_not_write_one_folder(hub, files, tmp_path):
    plan = plan_download(STUDENT, tmp_path)
    with hold(tmp_path, what="folder"), pytest.raises(OutputError, match="by another run"):
        download(plan, quiet)


def test_what_does_not_fit_the_disk_is_not_begun(hub, files, tmp_path, monkeypatch):
    room_left = len(files[PATH]) - 1
    usage = shutil.disk_usage(tmp_path)._replace(free=room_left)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage)
    plan = plan_download(STUDENT, tmp_path / "student")
    with pytest.raises(DownloadError, match=f"{room_left:,} are free where .*; make room"):
        download(plan, quiet)
    assert not list(tmp_path.iterdir())
    # a part that is there needs no more room
    part = part_of(plan.folder, files[PATH])
    part.parent.mkdir(parents=True)
    part.write_bytes(files[PATH][:1])
    plan.check()


def test_a_disk_that_fills_up_keeps_the_part(hub, files, tmp_path, monkeypatch):
    write = room._Counted.write

    def fill(self, data):
        write(self, data[:500])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room._Counted, "write", fill)
        with pytest.raises(DownloadError, match=r"disk is full after 500 of .* goes on from"):
            download(plan_download(STUDENT, tmp_path), quiet)
    download(plan_download(STUDENT, tmp_path), quiet)
    assert (tmp_path / PATH).read_bytes() == files[PATH]
    assert "bytes=500-" in [one.range for one in hub.requests]


def test_a_folder_that_cannot_be_written_is_a_sentence(hub, files, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        download(plan_download(STUDENT, tmp_path / "file"), quiet)


REFUSALS = [
    (401, "GatedRepo", "is gated: agree to its terms at http"),
    (403, "GatedRepo", "is gated: agree to its terms at http"),
    (401, "", r"to nobody unknown \(401\)"),
    (401, "RepoNotFound", r"to nobody unknown \(401\)"),
    (403, "", r"refuses gdhe17/Self-Forcing \(403\)"),
    (404, "RepoNotFound", r"has no gdhe17/Self-Forcing \(404\)"),
    (404, "", r"has no gdhe17/Self-Forcing \(404\)"),
    (418, "", r"refuses gdhe17/Self-Forcing \(418\)"),
    (429, "", r"fewer requests \(429\)"),
    (503, "", r"has a fault \(503\)"),
]


@pytest.mark.parametrize(("status", "code", "said"), REFUSALS)
def test_a_refusal_is_one_sentence(hub, files, tmp_path, status, code, said):
    hub.refuses = (status, code)
    with pytest.raises(DownloadError, match=said) as caught:
        plan_download(STUDENT, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("status", "code", "said"), REFUSALS)
def test_so_is_one_after_the_files_were_told(hub, files, tmp_path, status, code, said):
    plan = plan_download(STUDENT, tmp_path)
    hub.refuses = (status, code)
    with pytest.raises(DownloadError, match=said):
        download(plan, quiet)


def test_without_a_hub_there_is_one_sentence(hub, files, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"http://127.0.0.1:9 cannot be reached \(.*refused"):
        plan_download(STUDENT, tmp_path)


@pytest.mark.parametrize("page", [b"<html>log in</html>", b"{}", b"[]", b'{"id": 3, "sha": 3}'])
def test_a_page_that_is_no_hub_is_told(hub, files, tmp_path, monkeypatch, page):
    monkeypatch.setattr("tests.hub.fake_hub.json.dumps", lambda info: page.decode())
    with pytest.raises(DownloadError, match="did not answer as the model hub does"):
        plan_download(STUDENT, tmp_path)


def test_a_renamed_repository_is_named_and_can_be_given(hub, tmp_path):
    files = hub.add("new/Home", [PATH])
    hub.moved = {STUDENT.repository: "new/Home"}
    with pytest.raises(
        DownloadError, match=r"gdhe17/Self-Forcing is now called new/Home; .*--from"
    ):
        plan_download(STUDENT, tmp_path)
    download(plan_download(STUDENT, tmp_path, repository="new/Home"), quiet)
    assert (tmp_path / PATH).read_bytes() == files[PATH]


def test_no_repository_has_such_a_name(hub, tmp_path):
    with pytest.raises(DownloadError, match="'a/b/c' is no name of a repository"):
        plan_download(STUDENT, tmp_path, repository="a/b/c")


def test_names_that_the_repository_lost_are_told(hub, tmp_path):
    hub.add(STUDENT.repository, ["model.pt"])
    with pytest.raises(DownloadError, match=f"has no {PATH} at revision 1f3c"):
        plan_download(STUDENT, tmp_path)


@pytest.mark.parametrize(
    ("hidden", "said"),
    [
        (
            "huggingface_hub",
            r"needs huggingface_hub; install it with pip install 'afstream\[hub\]'",
        ),
        ("huggingface_hub.errors", "does not fit afstream; update it"),
    ],
)
def test_without_the_extra_there_is_one_sentence(tmp_path, monkeypatch, hidden, said):
    monkeypatch.delitem(sys.modules, "afstream.hub.client", raising=False)
    monkeypatch.delattr("afstream.hub.client", raising=False)
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ConfigError, match=said):
        plan_download(STUDENT, tmp_path)
