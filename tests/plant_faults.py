"""Plant deliberate faults one by one and see which of them no test notices.

    python tests/plant_faults.py                   all of `faults.py`, a few minutes
    python tests/plant_faults.py blend kvcache     those whose name or file says so
    python tests/plant_faults.py --check           only see that every text is found

Works in copies of the checkout, changes that are not committed included. A fault counts as noticed
when a test fails; exit code 1 if one survives, 2 if a text no longer stands where it was, or if
tests fail without any fault.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults import ROOMS, Fault  # noqa: E402  it runs from a bare clone

# one process loads what takes long, and its copies run the tests
FORKS = multiprocessing.get_context("forkserver")
PRELOADED = ["torch", "numpy"]
# added to pytest's exit code, so that it is told from that of a process that broke
RAN = 100
TESTS_FAILED = 1
LONGEST_S = 1200


class Case(NamedTuple):
    """One fault, its file and its tests."""

    file: str
    tests: tuple[str, ...]
    fault: Fault

    @property
    def name(self) -> str:
        return f"{Path(self.file).name}: {self.fault.what}"


def cases(words: Sequence[str]) -> list[Case]:
    """The faults whose file or name has one of the words; all without any."""
    found = [Case(room.file, room.tests, fault) for room in ROOMS for fault in room.faults]
    return [
        case
        for case in found
        if not words or any(word in f"{case.file} {case.fault.what}" for word in words)
    ]


def planted(root: Path, case: Case) -> str:
    """The text of the file with the fault in it."""
    text = (root / case.file).read_text()
    return text.replace(case.fault.old, case.fault.new)


def stale(case: Case) -> str:
    """Why a fault cannot be planted; empty if it can."""
    path = ROOT / case.file
    if not path.is_file():
        return "there is no such file"
    count = path.read_text().count(case.fault.old)
    if count != 1:
        return f"{case.fault.old!r} stands there {count} times"
    missing = [test for test in case.tests if not (ROOT / test).exists()]
    if missing:
        return f"there is no {', '.join(missing)}"
    try:
        compile(planted(ROOT, case), case.file, "exec")
    except SyntaxError as error:
        return f"with the fault it is no Python ({error.msg})"
    return ""


def copy_of_the_checkout(folder: Path) -> Path:
    """All files that git knows or would add, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run_tests(root: str, tests: Sequence[str], log: str) -> None:
    """Run tests of a copy, up to the first that fails; ends this process with pytest's code."""
    import pytest

    roots = [str(Path(root, part)) for part in ("src", "kernels", "cli", "")]
    # this module came with the checkout's own tests
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[:0] = roots
    os.environ["PYTHONPATH"] = os.pathsep.join(roots[:3])
    os.chdir(root)
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
        given = ["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile", "first", *tests]
        code = int(pytest.main(given))
        sys.stdout.flush()
        os._exit(RAN + code)


def outcome_of(root: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Exit code of pytest, None after `LONGEST_S`, and what it printed."""
    log = root / "log.txt"
    process = FORKS.Process(target=run_tests, args=(str(root), tests, str(log)))
    process.start()
    process.join(LONGEST_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None, ""
    told = log.read_text() if log.is_file() else ""
    if process.exitcode < RAN:
        raise RuntimeError(f"pytest did not run: exit code {process.exitcode}\n{told}")
    return process.exitcode - RAN, told


def try_fault(root: Path, case: Case) -> str:
    """`noticed`, by which test; `survived`; or what else came of it."""
    path = root / case.file
    before = path.read_text()
    path.write_text(planted(root, case))
    try:
        code, told = outcome_of(root, case.tests)
    finally:
        path.write_text(before)
    if code is None:
        return f"noticed: no end in {LONGEST_S} s"
    if code == TESTS_FAILED:
        failed = [line for line in told.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return f"noticed: {failed[-1].split(' - ')[0] if failed else ''}"
    return "SURVIVED" if code == 0 else f"BROKEN: {told[-500:]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant what was asked for; see the module."""
    parser = argparse.ArgumentParser(description="Plant deliberate faults; which survive?")
    parser.add_argument("words", nargs="*", help="parts of names or files [default: all]")
    parser.add_argument("--check", action="store_true", help="only see that texts are found")
    parser.add_argument("--trust", action="store_true", help="that tests pass without a fault")
    parser.add_argument("--jobs", type=int, default=2, help="copies at work [default: 2]")
    options = parser.parse_args(arguments)
    chosen = cases(options.words)
    faults = {case.name: why for case in chosen if (why := stale(case))}
    for name, why in faults.items():
        print(f"STALE     {name}: {why}")
    if faults or options.check or not chosen:
        print(f"{len(chosen)} faults, {len(faults)} of them cannot be planted")
        return 2 if faults or not chosen else 0

    # read when torch loads; two faults of one length within a second would share a cached file
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    FORKS.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(options.jobs):
            copies.put(copy_of_the_checkout(Path(folder, str(number))))
        if not options.trust:
            root = copies.get()
            tests = sorted({test for case in chosen for test in case.tests})
            code, told = outcome_of(root, tests)
            copies.put(root)
            if code:
                print(told[-3000:], "\nTests fail without any fault.")
                return 2

        def one(case: Case) -> str:
            root = copies.get()
            try:
                outcome = try_fault(root, case)
            finally:
                copies.put(root)
            print(
                f"{outcome.partition(':')[0]:9} {case.name}{outcome.partition(':')[2]}", flush=True
            )
            return outcome

        with ThreadPoolExecutor(options.jobs) as pool:
            outcomes = list(pool.map(one, chosen))
    left = sum(not outcome.startswith("noticed") for outcome in outcomes)
    print(f"{len(outcomes)} faults, {left} of them survived")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
