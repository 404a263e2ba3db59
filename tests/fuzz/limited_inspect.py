"""Runs `afstream inspect` on each of some paths in a forked child, and tells what that took.

    python limited_inspect.py PATH...

A line of JSON each: exit code, seconds of the processor, MB beyond what was there before, and the
last line that was printed.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import traceback
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

# everything that the command imports, before anything is measured
from afstream_cli.app import main

LIMIT_S = 30
LIMIT_BYTES = 6 * 2**30
PAGE_BYTES = resource.getpagesize()
MB = 1_000_000


def resident_mb() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / MB


def inspect(path: str) -> dict[str, object]:
    """Run it in a child, with limits that it never comes near."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            code, before = 99, resident_mb()
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
                resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
                os.dup2(said.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                try:
                    main(["inspect", path])
                except SystemExit as error:
                    code = int(str(error.code))
            except BaseException:  # noqa: BLE001  the parent says what happened
                traceback.print_exc()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            sys.stderr.write(f"\n{peak - before}")
            sys.stderr.flush()
            os._exit(code)
        _, status, used = os.wait4(child, 0)
        said.seek(0)
        text, _, grown = said.read().decode().rpartition("\n")
    return {
        "path": path,
        "code": os.waitstatus_to_exitcode(status),
        "s": used.ru_utime + used.ru_stime,
        "mb": float(grown),
        "said": text,
    }


if __name__ == "__main__":
    # what the command imports late
    with suppress(SystemExit), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        main(["inspect", "/"])
    for given in sys.argv[1:]:
        sys.stdout.write(json.dumps(inspect(given)) + "\n")
        sys.stdout.flush()
