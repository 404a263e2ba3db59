"""Many changed files through every parser, with limits of time and memory: the slow job.

    python tests/fuzz/run.py --inputs 100000
    python tests/fuzz/run.py --inputs 5000 --parser pt --seed 7

An input fails when a parser raises what it must not, takes longer than `LIMIT_S`, or lets memory
grow by more than `LIMIT_MB`. Failing inputs are kept in a folder, and shrunk to nothing smaller:
put what is worth keeping into `tests/corpus`. The exit code is 1 when there are any.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

from tests.fuzz.parsers import PARSERS, FaultyError, attempt, seeds_of, workplace

LIMIT_S = 2.0
LIMIT_MB = 500
KIB_PER_MB = 1000
MOST_KEPT = 20


class TooSlowError(BaseException):
    """Raised from outside; no parser may swallow it."""


@contextmanager
def limited() -> Generator[None]:
    """Interrupt a block that takes too long; kills the process where it does not listen."""

    def stop(number: int, frame: object) -> None:
        raise TooSlowError

    signal.signal(signal.SIGPROF, stop)
    # of the processor: the machine may be busy
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    # for what never comes back to Python
    spent = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (spent + 10 * int(LIMIT_S), resource.RLIM_INFINITY))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def peak_mb() -> float:
    """Most memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MB


def fuzz(name: str, inputs: int, seed: int, kept: Path) -> int:
    """Try one parser; returns the number of failing inputs."""
    parser, seeds, random = PARSERS[name], seeds_of(name), Random(f"{name} {seed}")
    began, taken, faults, slowest = time.perf_counter(), 0, 0, 0.0
    with workplace() as folder:
        for index in range(inputs):
            data = parser.make(random, seeds)
            # so that a crash of the whole process leaves its input
            last = folder / "input"
            last.write_bytes(data)
            before, start = peak_mb(), time.process_time()
            try:
                with limited():
                    taken += attempt(parser, folder / parser.file, data)
                    fault = ""
            except FaultyError as error:
                fault = str(error)
            except TooSlowError:
                fault = f"more than {LIMIT_S:g} s"
            slowest = max(slowest, time.process_time() - start)
            if peak_mb() - before > LIMIT_MB:
                fault = f"{peak_mb() - before:.0f} MB more memory"
            if fault:
                faults += 1
                if faults <= MOST_KEPT:
                    kept.mkdir(parents=True, exist_ok=True)
                    (kept / f"{name}-{index}").write_bytes(data)
                    print(f"{name} {index}: {fault}", flush=True)
    print(
        f"{name:13} {inputs} inputs: {taken} taken, {inputs - taken - faults} refused,"
        f" {faults} faults; slowest {1000 * slowest:.0f} ms, {peak_mb():.0f} MB,"
        f" {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return faults


def main() -> None:
    """Try the parsers that are asked for."""
    options = argparse.ArgumentParser(description="Try changed files on every parser.")
    options.add_argument("--inputs", type=int, default=100_000, help="for each parser")
    options.add_argument("--parser", choices=PARSERS, action="append", help="default: all")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="failing inputs")
    given = options.parse_args()
    names = given.parser or list(PARSERS)
    faults = sum(fuzz(name, given.inputs, given.seed, given.keep) for name in names)
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
