"""The options of a stream reach it as one object, whichever command takes them."""

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from afstream.spec import ModelSpec, StreamConfig
from afstream_cli import app as commands
from afstream_cli.stream_options import stream_config, with_stream_options

Run = Callable[..., Any]
GIVEN: dict[str, tuple[str | None, dict[str, Any]]] = {
    "--model": ("a/folder", {"model": ModelSpec(name="a/folder")}),
    "--student": ("s.pt", {"model": ModelSpec(student="s.pt")}),
    "--lora": ("l.pt:0.5", {"model": ModelSpec(loras=("l.pt:0.5",))}),
    "--vae": ("tiny", {"model": ModelSpec(vae="tiny")}),
    "--text-encoder-file": ("t.pth", {"model": ModelSpec(text_encoder_file="t.pth")}),
    "--text-encoder": ("cpu", {"model": ModelSpec(text="cpu")}),
    "--offload": ("3", {"model": ModelSpec(offload=3)}),
    "--device": ("cpu", {"model": ModelSpec(device="cpu")}),
    "--dtype": ("float32", {"model": ModelSpec(dtype="float32")}),
    "--gpu-memory": ("2GiB", {"gpu_memory": 2 * 2**30}),
    "--size": ("832x480", {"size": (832, 480)}),
    "--memory": ("rolling", {"memory": "rolling"}),
    "--junction": ("gap", {"junction": "gap"}),
    "--preset": ("longlive", {"preset": "longlive"}),
    "--backend": ("sdpa", {"backend": "sdpa"}),
    "--compile": (None, {"compiled": True}),
    "--no-graph": (None, {"graphs": False}),
}


def toy_command(seen: list[object]) -> typer.Typer:
    """A command with an option before and one after those of the stream."""

    @with_stream_options
    def paint(*, name: str = "x", config: StreamConfig, loud: bool = False) -> None:
        """Paint."""
        seen.extend([name, config, loud])

    toy = typer.Typer()
    toy.command()(paint)
    return toy


@pytest.mark.parametrize("option", GIVEN)
def test_each_option_is_one_field(option: str):
    value, fields = GIVEN[option]
    seen: list[object] = []
    words = ["--name", "y", option, *([value] if value else []), "--loud"]
    done = CliRunner().invoke(toy_command(seen), words)
    assert done.exit_code == 0, done.output
    assert seen == ["y", StreamConfig(**fields), True]


def test_every_option_is_tried_here():
    done = CliRunner().invoke(toy_command([]), ["--help"], terminal_width=200)
    named = set(re.findall(r"--[a-z-]+", done.output))
    assert named - {"--name", "--loud", "--no-loud", "--help"} - {
        "--install-completion",
        "--show-completion",
    } == set(GIVEN)


def test_nothing_given_is_the_default():
    assert stream_config() == StreamConfig()


def test_generate_adds_seed_and_prompts(
    afstream: Run, fake_stream: ModuleType, timeline: str, monkeypatch: pytest.MonkeyPatch
):
    seen: list[StreamConfig] = []
    make = fake_stream.Stream.open
    monkeypatch.setattr(
        fake_stream.Stream, "open", lambda checked: seen.append(checked.config) or make(checked)
    )
    afstream("generate", "-p", timeline, "-q", "--memory", "clear", "--no-graph")
    prompts = ("a red ball bounces", "a blue [ball] drifts left", "it turns green", "a star")
    assert seen == [StreamConfig(seed=3, prompts=prompts, memory="clear", graphs=False)]


def test_a_timeline_that_does_not_fit_is_refused_before_the_model_is_opened(
    afstream: Run, fake_stream: ModuleType, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fake_stream.Stream, "open", lambda _: pytest.fail("opened"))
    (tmp_path / "t.txt").write_text("0:00 a ball\n0:05 a star\n0:05.05 a ring\n")
    done = afstream("generate", "-p", "t.txt")
    assert done.code == 2
    assert "t.txt:3:1: the cue starts at 0:05.05" in done.err


def test_help_says_defaults_in_one_way():
    done = CliRunner().invoke(commands.app, ["generate", "--help"], terminal_width=200)
    assert done.exit_code == 0
    assert not re.search(r"\belse\b|Of the ", done.output)
    # an option without a default adds something, or is a switch
    without = {"--prompts", "--help", "--sheet", "--student", "--lora", "--subtitles"}
    switches = {"--compile", "--no-graph", "--dry-run", "--quiet", "--json"}
    switches |= {"--exact", "--overwrite", "--no-state", "--resume"}
    blocks = re.split(r"(?=│ \*?\s*--)", done.output)
    silent = {b.split("--")[1].split()[0] for b in blocks[1:] if "[default:" not in b}
    assert {f"--{name}" for name in silent} == without | switches
