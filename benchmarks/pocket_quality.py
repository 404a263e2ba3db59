"""Score the pocket model with the oracle of its world, on held-out prompts.

    python benchmarks/pocket_quality.py [--memory anchor] [--prompts 128] [--long 20]
    python benchmarks/pocket_quality.py --model FILE --name NAME

Records go to a folder, one line a stream, so a killed run resumes; `--shard 0/2` and
`--shard 1/2` share the work between processes. `--report` only adds up what is there, and
writes a JSON file to `benchmarks/results/` and, for the embedded model, `docs/pocket_quality.md`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from afstream.errors import AfstreamError
from afstream.families.opening import open_model
from afstream.spec import ModelSpec, StreamConfig
from afstream.stream import Stream
from pocket_oracle import (
    Quality,
    RecordBook,
    Sizes,
    make_cases,
    markdown,
    measure,
    oracle_accuracy,
    summarise,
)

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "pocket_quality.md"
RESULTS = ROOT / "benchmarks" / "results"
ORACLE_CLIPS = 100
EMBEDDED = "pocket"


def run(options: argparse.Namespace, book: RecordBook) -> None:
    """Play this shard's cases that have no record yet."""
    model = open_model(ModelSpec(name=options.model, device="cpu"))
    shard, of = (int(part) for part in options.shard.split("/"))
    steady = options.prompts if options.steady is None else options.steady
    sizes = Sizes(steady=steady, switch=options.prompts, long=options.long)
    cases = [case for number, case in enumerate(make_cases(sizes)) if number % of == shard]
    measure(
        cases,
        lambda seed: Stream(model, StreamConfig(memory=options.memory, seed=seed)),
        book,
        model=model.details["sha256"],
        memory=options.memory,
        report=lambda record: print(f"{record.kind} {record.index}", file=sys.stderr),
    )


def page(options: argparse.Namespace, quality: Quality, clean: Mapping[str, float]) -> str:
    """What `docs/pocket_quality.md` says, and nothing that was not measured."""
    read = ", ".join(f"{name} {share:.1%}" for name, share in clean.items())
    counts = ", ".join(f"{count} {kind}" for kind, count in quality.streams.items())
    command = (
        f"python benchmarks/pocket_quality.py --memory {options.memory}"
        f" --prompts {options.prompts} --long {options.long}"
    )
    return (
        "# How well the pocket model follows its prompts\n\n"
        "Read from its frames by the oracle in `benchmarks/pocket_oracle`, on held-out prompts,"
        f" with 4 denoise steps and the memory `{options.memory}`. Streams: {counts}.\n"
        f"The oracle itself, on {ORACLE_CLIPS} real clips that it had not seen, reads right:"
        f" {read}.\n\nIn brackets: how many of how many, and the 95 % interval of the share in per"
        " cent (Wilson's).\n\n"
        f"Written by the script below; no figure is typed by hand.\n\n```sh\n{command}\n```\n\n"
        f"{markdown(quality)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Play, add up, write."""
    parser = argparse.ArgumentParser(description="Score the pocket model with its oracle.")
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--memory", default="anchor")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--steady", type=int, help="fewer streams of one prompt than --prompts")
    parser.add_argument("--long", type=int, default=20)
    parser.add_argument("--name", help="of the JSON file [default: pocket_quality_MEMORY]")
    parser.add_argument("--shard", default="0/1", metavar="I/N")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "quality")
    parser.add_argument("--report", action="store_true", help="only add up what is there")
    options = parser.parse_args(arguments)
    book = RecordBook(options.folder, options.shard.replace("/", "of"))
    if not options.report:
        run(options, book)
    if not options.report and options.shard != "0/1":
        return
    quality = summarise(book, memory=options.memory)
    RESULTS.mkdir(exist_ok=True)
    name = options.name or f"pocket_quality_{options.memory}"
    (RESULTS / f"{name}.json").write_text(quality.to_json() + "\n")
    if options.model == EMBEDDED:
        clean = oracle_accuracy(clips=ORACLE_CLIPS)
        PAGE.write_text(page(options, quality, clean))
        print(PAGE.read_text())
    else:
        print(markdown(quality))


if __name__ == "__main__":
    try:
        main()
    except AfstreamError as error:
        sys.exit(f"pocket_quality: {error}")
