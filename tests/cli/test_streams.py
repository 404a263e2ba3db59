"""Standard streams that are closed, full, unread or of another encoding; and faults of our own."""

import os
import stat
from pathlib import Path

import pytest
from tests.cli.warm import BROKEN, CLOSED, Case, Outcome, run_warm

FULL = "/dev/full"
RUN = ["generate", "-p", "t.txt", "--duration", "0:02", "--scale", "2", "--out"]
DRY = ["generate", "-p", "t.txt", "--dry-run"]
FAULT = "import afstream_cli.preview as p; p.plan_as_data = lambda plan: [][1]"
STREAMS = {
    "usual": Case(arguments=[*RUN, "usual.mp4"]),
    "progress unread": Case(arguments=[*RUN, "unread.mp4"], stderr=BROKEN, ends=True),
    "progress full": Case(arguments=[*RUN, "full.mp4"], stderr=FULL),
    "progress closed": Case(arguments=[*RUN, "closed.mp4"], stderr=CLOSED),
    "all closed": Case(arguments=[*RUN, "all.mp4"], stdin=CLOSED, stdout=CLOSED, stderr=CLOSED),
    "data unread": Case(arguments=[*RUN, "a.mp4", "--json"], stdout=BROKEN),
    "data full": Case(arguments=[*RUN, "b.mp4", "--json"], stdout=FULL),
    "data closed": Case(arguments=[*RUN, "c.mp4", "--json"], stdout=CLOSED),
    "table unread": Case(arguments=DRY, stdout=BROKEN),
    "table full": Case(arguments=[*DRY, "--json"], stdout=FULL),
    "help closed": Case(arguments=["--help"], stdout=CLOSED),
    "version full": Case(arguments=["--version"], stdout=FULL, ends=True),
    "ascii": Case(arguments=DRY, encoding="ascii"),
    "no cues": Case(arguments=["generate", "-p", "-", "--out", "d.mp4"], stdin=CLOSED),
    "error unread": Case(arguments=["generate", "-p", "nowhere.txt"], stderr=BROKEN),
    "usage unread": Case(arguments=["generate", "--nope"], stderr=FULL),
}
FAULTS = {
    "fault": Case(arguments=[*DRY, "--json"], plant=FAULT),
    "no memory": Case(arguments=[*DRY, "--json"], plant=FAULT.replace("[][1]", "[0] * 2**60")),
    "full disk": Case(
        arguments=[*DRY, "--json"],
        plant=FAULT.replace("[][1]", "open('/dev/full', 'w', 1).write('x\\n')"),
    ),
    "traceback": Case(
        arguments=[*DRY, "--json"],
        plant=f"import os; os.environ['AFSTREAM_TRACEBACK'] = '1'; {FAULT}",
    ),
    "no report": Case(
        arguments=[*DRY, "--json"],
        plant=f"import tempfile; tempfile.mkstemp = lambda **_: open('/no/such'); {FAULT}",
    ),
}
pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, Outcome]:
    """What became of each case; they share one warm process."""
    text = "0:00 a red ball \u2014 \u2b50\n0:01 a star\n"
    (folder / "t.txt").write_text(text, encoding="utf-8")
    cases = STREAMS | FAULTS
    return dict(zip(cases, run_warm(folder, [*cases.values()]), strict=True))


def test_standard_streams_of_every_kind(folder: Path, done: dict[str, Outcome]):
    # A film needs no reader.
    usual = (folder / "usual.mp4").read_bytes()
    for name in ("progress unread", "progress full", "progress closed", "all closed"):
        assert done[name] == Outcome(code=0, out="", err=""), name
        video = STREAMS[name].arguments[-1]
        assert (folder / video).read_bytes() == usual, name
    # Data that are not all there are an error, whoever writes them.
    for name in [
        name for name in STREAMS if name.split()[0] in ("data", "table", "help", "version")
    ]:
        assert done[name].code == 2, name
        assert done[name].err.startswith("afstream: cannot write to standard output, "), name
        assert len(done[name].err.splitlines()) == 1, name
    assert "its reader went away; 0.56 s were made" in done["data unread"].err
    # An error that nobody reads.
    for name in ("error unread", "usage unread"):
        assert (done[name].code, done[name].err) == (2, ""), name
    assert done["ascii"].code == 0
    assert r"a red ball \u2014 \u2b50" in done["ascii"].out
    assert done["no cues"].code == 2
    assert "standard input ended without a prompt" in done["no cues"].err
    assert len(done["no cues"].err.splitlines()) == 1


def test_faults_of_our_own(folder: Path, done: dict[str, Outcome]):
    fault = done["fault"]
    assert fault.code == 1
    assert len(fault.err.splitlines()) == 1
    assert "a fault of its own (IndexError: list index out of range)" in fault.err
    reports = [*(folder / "state" / "afstream" / "reports").iterdir()]
    [path] = [path for path in reports if str(path) in fault.err]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert "--dry-run" in text
    assert "torch: " in text
    assert "Traceback" in text
    assert "XDG_STATE_HOME" not in text

    assert (done["no report"].code, done["no report"].err) == (
        1,
        "afstream: stopped because of a fault of its own (IndexError: list index out of range);"
        " AFSTREAM_TRACEBACK=1 shows where\n",
    )
    assert done["traceback"].code == 1
    assert "IndexError" in done["traceback"].err.splitlines()[-1]
    assert done["no memory"].code == 2
    assert done["no memory"].err.startswith("afstream: memory ran out; ")
    assert done["full disk"].code == 1
    refused = "the system refused something (no space left on device); a report is in"
    assert refused in done["full disk"].err
